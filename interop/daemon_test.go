//go:build linux

package interop

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/kilnbuild/kiln/internal/testenv"
)

// A service is a running kiln daemon, with what real clients need to reach it.
type service struct {
	t       *testing.T
	scene   *testenv.Scene
	release *release
	root    string   // of the store
	env     []string // of the daemon and its clients, besides the scene's
	remote  string   // the store URI of clients
	socket  string
	cmd     *exec.Cmd

	mu     sync.Mutex
	stderr bytes.Buffer
	ended  chan error
}

// startService starts kiln daemon for a private store, and waits until it listens. It
// is told to end when the test is over, and has to.
func startService(t *testing.T, scene *testenv.Scene, words ...string) *service {
	t.Helper()
	s := newService(t, scene)
	s.remote = "unix://" + s.socket + "?root=" + s.root
	s.start(append([]string{testenv.Kiln(t), "daemon", "--store", s.root, "-v"}, words...)...)
	return s
}

func newService(t *testing.T, scene *testenv.Scene) *service {
	root := scene.Path("store")
	return &service{
		t: t, scene: scene, release: hostNix(t), ended: make(chan error, 1),
		root: root, socket: filepath.Join(root, "nix/var/nix/daemon-socket/socket"),
	}
}

// start is startService by the words of a command.
func (s *service) start(words ...string) {
	t := s.t
	t.Helper()
	s.cmd = sceneCommand(s.scene, append(words,
		"--option", "sandbox-paths", "/bin/sh="+visible(t, testenv.Busybox(t)), "--option", "fsync-metadata", "false",
		"--option", "fsync-store-paths", "false", "--option", "build-users-group", "", "--option", "builders", "")...)
	s.cmd.Env = append(s.cmd.Env, s.env...)
	out, err := s.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	listening := make(chan struct{})
	go func() {
		var once sync.Once
		for lines := bufio.NewScanner(out); lines.Scan(); {
			s.mu.Lock()
			fmt.Fprintln(&s.stderr, lines.Text())
			s.mu.Unlock()
			if strings.HasPrefix(lines.Text(), "listening at") {
				once.Do(func() { close(listening) })
			}
		}
		s.ended <- s.cmd.Wait()
	}()
	select {
	case <-listening:
	case err := <-s.ended:
		t.Fatalf("kiln daemon ended: %v\n%s", err, s.said())
	case <-time.After(commandLimit):
		t.Fatal("kiln daemon does not listen")
	}
	t.Cleanup(s.stop)
}

func (s *service) said() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.stderr.String()
}

// stop tells the daemon to end, and wants it to do so without complaint.
func (s *service) stop() {
	s.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case err := <-s.ended:
		if err != nil {
			s.t.Errorf("kiln daemon: %v\n%s", err, s.said())
		}
	case <-time.After(30 * time.Second):
		s.cmd.Process.Kill()
		s.t.Errorf("kiln daemon does not end\n%s", s.said())
		<-s.ended
	}
	if _, err := os.Lstat(s.socket); err == nil {
		s.t.Error("its socket is left")
	}
}

// client is a command of real Nix that reaches the store through the daemon.
func (s *service) client(words ...string) *exec.Cmd {
	cmd := s.release.command(s.scene, words...)
	cmd.Env = append(append(cmd.Env, s.env...), "NIX_REMOTE="+s.remote)
	cmd.Dir = s.scene.Dir
	return cmd
}

// must runs a client that has to succeed, and gives what it printed.
func (s *service) must(words ...string) string {
	s.t.Helper()
	return strings.Join(must(s.t, s.client(words...)), "\n")
}

// real is where a store object is on the machine.
func (s *service) real(path string) string { return s.root + path }

const hello = `let sh = name: text: derivation { inherit name; system = "x86_64-linux"; builder = "/bin/sh"; args = [ "-c" text ]; }; in
rec {
  dep = sh "dep" "echo first line of dep; echo dep > $out";
  hello = derivation { name = "hello"; system = "x86_64-linux"; builder = "/bin/sh"; inherit dep; args = [ "-c" "read x < $dep; echo log of hello; echo hello $x $dep > $out" ]; };
  fails = sh "fails" "echo it fails; exit 3";
  tool = sh "tool-1.0" "mkdir -p $out/bin; echo tool > $out/bin/tool";
}
`

func write(t *testing.T, name, text string) string {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return name
}

// TestDaemonClients has real clients do everything that they do with a daemon, and
// looks at what comes of it.
func TestDaemonClients(t *testing.T) {
	needs(t)
	takeLane(t)
	s := startService(t, newPlainScene(t))
	file := write(t, s.scene.Path("hello.nix"), strings.ReplaceAll(hello, "x86_64-linux", testenv.System()))
	equal := func(what, got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("%s: %q, want %q", what, got, want)
		}
	}
	contains := func(what, got string, parts ...string) {
		t.Helper()
		for _, part := range parts {
			if !strings.Contains(got, part) {
				t.Errorf("%s: %q is not in\n%s", what, part, got)
			}
		}
	}
	read := func(name string) string {
		t.Helper()
		text, err := os.ReadFile(name)
		if err != nil {
			t.Error(err)
		}
		return string(text)
	}

	contains("nix store ping", run(t, s.client("nix", "store", "ping")).stderr, s.socket)

	// Building.
	drv := s.must("nix-instantiate", file, "-A", "hello")
	built := run(t, s.client("nix-build", file, "-A", "hello", "--out-link", s.scene.Path("result")))
	if built.exit != 0 {
		t.Fatalf("nix-build: %s", built.stderr)
	}
	out := strings.Join(built.stdout, "")
	contains("nix-build", built.stderr, "building '"+drv+"'", "first line of dep", "log of hello")
	dep := s.must("nix-build", file, "-A", "dep", "--no-out-link")
	equal("what was built", read(s.real(out)), "hello dep "+dep+"\n")
	equal("nix-store -r", s.must("nix-store", "-r", drv), out)
	auto, err := filepath.Glob(s.real("/nix/var/nix/gcroots/auto/*"))
	rooted := false
	for _, root := range auto {
		link, _ := os.Readlink(root)
		rooted = rooted || link == s.scene.Path("result")
	}
	if err != nil || !rooted {
		t.Errorf("roots: %v, %v", auto, err)
	}
	failed := run(t, s.client("nix-build", file, "-A", "fails", "--no-out-link"))
	if failed.exit == 0 {
		t.Error("a build that fails: exit 0")
	}
	contains("a build that fails", failed.stderr, "it fails", "builder failed with exit code 3")

	// Asking.
	equal("references", s.must("nix-store", "-q", "--references", out), dep)
	equal("referrers", s.must("nix-store", "-q", "--referrers", dep), out)
	equal("deriver", s.must("nix-store", "-q", "--deriver", out), drv)
	equal("outputs", s.must("nix-store", "-q", "--outputs", drv), out)
	contains("requisites", s.must("nix-store", "-qR", drv), s.must("nix-instantiate", file, "-A", "dep"))
	contains("nix path-info", s.must("nix", "path-info", "--json", out), `"deriver":"`+drv+`"`, `"ultimate":true`, dep)
	equal("nix log", s.must("nix", "log", drv), "log of hello")
	equal("nix-store --read-log", s.must("nix-store", "--read-log", dep), "first line of dep")
	contains("all paths", s.must("nix", "path-info", "--all"), out, dep, drv)

	// Adding, and taking out.
	tree := s.scene.Mkdir("tree")
	write(t, filepath.Join(tree, "file"), strings.Repeat("content\n", 1000))
	added := s.must("nix-store", "--add", tree)
	equal("nix-store --add", read(s.real(added+"/file")), read(filepath.Join(tree, "file")))
	equal("nix-store --add-fixed", s.must("nix-store", "--add-fixed", "sha256", "--recursive", tree), added)
	exported, err := s.client("nix-store", "--export", dep, out).Output()
	if err != nil {
		t.Fatal(err)
	}
	archive, err := s.client("nix", "nar", "dump-path", tree).Output()
	if err != nil {
		archive, err = s.client("nix-store", "--dump", tree).Output()
	}
	if err != nil {
		t.Fatal(err)
	}
	streamed, err := s.client("nix", "store", "dump-path", added).Output()
	if err != nil || !bytes.Equal(archive, streamed) {
		t.Errorf("nix store dump-path: %d bytes, %v, want %d", len(streamed), err, len(archive))
	}

	// Copying to a store of another program and back.
	other := s.scene.Path("other")
	s.must("nix", "copy", "--no-check-sigs", "--to", "local?root="+other, out)
	equal("copied out", read(other+out), read(s.real(out)))
	s2 := startService(t, newPlainScene(t))
	s2.must("nix", "copy", "--no-check-sigs", "--from", "local?root="+other, out)
	equal("copied in", read(s2.real(out)), read(s.real(out)))
	importing := s2.client("nix-store", "--import")
	importing.Stdin = bytes.NewReader(exported)
	equal("nix-store --import", strings.Join(must(t, importing), " "), dep+" "+out)

	// Looking after the store.
	again := s.must("nix-store", "--add", write(t, s.scene.Path("copy"), read(filepath.Join(tree, "file"))))
	s.must("nix-store", "--optimise")
	one, err1 := os.Stat(s.real(again))
	two, err2 := os.Stat(s.real(added + "/file"))
	if err1 != nil || err2 != nil || !os.SameFile(one, two) {
		t.Errorf("nix-store --optimise: equal files are not linked: %v, %v", err1, err2)
	}
	s.must("nix-store", "--verify", "--check-contents")
	damage(t, s.real(again))
	verified := run(t, s.client("nix-store", "--verify", "--check-contents"))
	if verified.exit != 1 {
		t.Errorf("verifying what is damaged: exit %d", verified.exit)
	}
	contains("verifying what is damaged", verified.stderr, "was modified")
}

// TestDaemonProfiles has real clients install, remove and roll back, in a store that is
// where its paths say.
func TestDaemonProfiles(t *testing.T) {
	needs(t)
	scene := newPlainScene(t)
	s := newService(t, scene)
	s.env, s.remote = []string{"NIX_STORE_DIR=" + scene.Path("store")}, "daemon"
	s.socket = scene.Path("state", "daemon-socket", "socket")
	s.start(testenv.Kiln(t), "daemon", "-v")
	file := write(t, s.scene.Path("hello.nix"), strings.ReplaceAll(hello, "x86_64-linux", testenv.System()))
	profile := scene.Path("profile")
	env := func(words ...string) string {
		return s.must(append([]string{"nix-env", "-p", profile, "-f", file}, words...)...)
	}
	env("-iA", "tool")
	if got := env("-q"); got != "tool-1.0" {
		t.Errorf("installed: %q", got)
	}
	if text, err := os.ReadFile(filepath.Join(profile, "bin", "tool")); err != nil || string(text) != "tool\n" {
		t.Errorf("what was installed: %q, %v", text, err)
	}
	env("-e", "tool")
	if got := env("-q"); got != "" {
		t.Errorf("after removing it: %q", got)
	}
	env("--rollback")
	if got := env("-q"); got != "tool-1.0" {
		t.Errorf("after rolling back: %q", got)
	}
}

// damage changes a byte of a store object.
func damage(t *testing.T, path string) {
	t.Helper()
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteAt([]byte("X"), 3)
	}
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
}

// TestDaemonRestricted has a client that is not trusted set options. It is told of those
// that it may not set, in the words of Nix, and of nothing else.
func TestDaemonRestricted(t *testing.T) {
	needs(t)
	s := startService(t, newScene(t), "--force-untrusted", "--option", "trusted-substituters", "https://known.example/",
		"--option", "trusted-public-keys", "a:"+strings.Repeat("A", 43)+"= b:"+strings.Repeat("B", 43)+"=")
	ask := func(name, value string) string {
		t.Helper()
		o := run(t, s.client("nix-store", "--option", name, value, "-q", "--hash", "/nix/store/00000000000000000000000000000000-none"))
		var warnings []string
		for line := range strings.Lines(o.stderr) {
			if strings.Contains(line, "warning") || strings.Contains(line, "ignoring") {
				warnings = append(warnings, strings.TrimSpace(line))
			}
		}
		return strings.Join(warnings, "\n")
	}
	for name, value := range map[string]string{
		"sandbox": "false", "require-sigs": "false", "sandbox-fallback": "true", "extra-sandbox-paths": "/etc", "post-build-hook": "/bin/sh",
	} {
		want := "warning: ignoring the client-specified setting '" + strings.TrimPrefix(name, "extra-") +
			"', because it is a restricted setting and you are not a trusted user"
		if got := ask(name, value); got != want {
			t.Errorf("%s = %s: said %q, want %q", name, value, got, want)
		}
	}
	for name, value := range map[string]string{
		"timeout": "7", "max-silent-time": "7", "build-poll-interval": "7", "connect-timeout": "7", "builders": "",
		"sandbox": "true", "require-sigs": "true", "substituters": "https://known.example", "cores": "3", "keep-going": "true",
		"trusted-public-keys": "a:" + strings.Repeat("A", 43) + "=", "log-lines": "25",
	} {
		if got := ask(name, value); got != "" {
			t.Errorf("%s = %s: said %q", name, value, got)
		}
	}
	if got := ask("substituters", "https://unknown.example"); !strings.HasPrefix(got, "warning: ignoring untrusted substituter 'https://unknown.example', you are not a trusted user.") {
		t.Errorf("substituters: said %q", got)
	}
	// What they may not do.
	file := write(t, s.scene.Path("file"), "content")
	path := s.must("nix-store", "--add", file)
	if o := run(t, s.client("nix-store", "--verify", "--repair")); o.exit == 0 || !strings.Contains(o.stderr, "you are not privileged to repair paths") {
		t.Errorf("repairing: exit %d, %s", o.exit, o.stderr)
	}
	if o := run(t, s.client("nix-store", "--repair-path", path)); o.exit == 0 {
		t.Error("a path was repaired")
	}
	other := startService(t, newScene(t))
	drv := write(t, other.scene.Path("hello.nix"), strings.ReplaceAll(hello, "x86_64-linux", testenv.System()))
	made := other.must("nix-build", drv, "-A", "dep", "--no-out-link")
	exported, err := other.client("nix-store", "--export", made).Output()
	if err != nil {
		t.Fatal(err)
	}
	importing := s.client("nix-store", "--import")
	importing.Stdin = bytes.NewReader(exported)
	if o := run(t, importing); o.exit == 0 || !strings.Contains(o.stderr, "lacks a signature by a trusted key") {
		t.Errorf("importing what nobody signed: exit %d, %s", o.exit, o.stderr)
	}
	if o := run(t, s.client("nix-store", "--check-validity", made)); o.exit == 0 {
		t.Error("it was imported all the same")
	}
}

// TestDaemonStoreReplaced deletes the store below a running daemon.
func TestDaemonStoreReplaced(t *testing.T) {
	needs(t)
	s := startService(t, newScene(t))
	file := write(t, s.scene.Path("file"), "content")
	first := s.must("nix-store", "--add", file)
	for _, dir := range []string{"/nix/store", "/nix/var/nix/db", "/nix/var/nix/temproots", "/nix/var/nix/kiln"} {
		if out, err := exec.Command("sh", "-c", `chmod -R u+w "$0"; rm -rf "$0"`, s.real(dir)).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	if o := run(t, s.client("nix-store", "--check-validity", first)); o.exit == 0 {
		t.Error("what was deleted is valid")
	}
	if again := s.must("nix-store", "--add", file); again != first {
		t.Errorf("added again: %s", again)
	}
	s.must("nix-store", "--verify", "--check-contents")
}

// TestDaemonStdio has a real client speak to the daemon by way of a program, as ssh is
// one.
func TestDaemonStdio(t *testing.T) {
	needs(t)
	scene := newScene(t)
	kiln := filepath.Join(scene.Dir, "nix-daemon")
	if err := os.Symlink(testenv.Kiln(t), kiln); err != nil {
		t.Fatal(err)
	}
	// A client without ssh: it finds this one, which leaves out the host.
	bin := scene.Mkdir("bin")
	ssh := write(t, filepath.Join(bin, "ssh"), "#!/bin/sh\nexec "+kiln+" --store "+scene.Path("store")+" --stdio\n")
	if err := os.Chmod(ssh, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := hostNix(t).command(scene, "nix", "--store", "ssh-ng://somewhere", "store", "ping")
	cmd.Env = append(cmd.Env, "PATH="+bin+":"+os.Getenv("PATH"))
	if o := run(t, cmd); o.exit != 0 || !strings.Contains(o.stderr, "ssh-ng://somewhere") {
		t.Errorf("exit %d: %s", o.exit, o.stderr)
	}
}

// TestDaemonSockets wants a dead daemon's socket to be replaced, and a living one's not.
func TestDaemonSockets(t *testing.T) {
	testenv.NixVersion(t)
	s := startService(t, newScene(t))
	second := sceneCommand(s.scene, testenv.Kiln(t), "daemon", "--store", s.scene.Path("store"))
	if o := run(t, second); o.exit != 1 || !strings.Contains(o.stderr, "a daemon is listening there already") {
		t.Errorf("a second daemon: exit %d, %s", o.exit, o.stderr)
	}
	s.must("nix", "store", "ping")
	if err := s.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-s.ended
	s.ended <- nil
	third := startService(t, s.scene)
	third.must("nix", "store", "ping")
}

// TestDaemonDrains has a daemon finish what it is doing.
func TestDaemonDrains(t *testing.T) {
	needs(t)
	s := startService(t, newScene(t))
	text := `derivation { name = "slow"; system = "` + testenv.System() + `"; builder = "/bin/sh"; args = [ "-c" "echo begun; i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done; echo slow > $out" ]; }`
	cmd := s.client("nix-build", "-E", text, "--no-out-link")
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(stderr)
	for lines.Scan() && lines.Text() != "begun" {
	}
	s.cmd.Process.Signal(syscall.SIGTERM)
	io.Copy(io.Discard, stderr)
	cmd.Wait() // the client has more to ask, and may or may not get to that
	if err := <-s.ended; err != nil {
		t.Errorf("kiln daemon: %v\n%s", err, s.said())
	}
	s.ended <- nil
	again := startService(t, s.scene)
	if o := run(t, again.client("nix-store", "-r", "--dry-run", again.must("nix-instantiate", "-E", text))); strings.Contains(o.stderr, "slow.drv") {
		t.Errorf("what was being built is not there:\n%s", o.stderr)
	}
}
