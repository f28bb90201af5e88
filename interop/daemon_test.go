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
	clients []string // of clients only
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
	s.launch(sceneCommand(s.scene, append(words,
		"--option", "sandbox-paths", "/bin/sh="+visible(t, testenv.Busybox(t)), "--option", "fsync-metadata", "false",
		"--option", "fsync-store-paths", "false", "--option", "build-users-group", "", "--option", "builders", "")...))
}

// launch is startService by a command.
func (s *service) launch(cmd *exec.Cmd) {
	t := s.t
	t.Helper()
	s.cmd = cmd
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
	cmd.Env = append(append(append(cmd.Env, s.env...), "NIX_REMOTE="+s.remote), s.clients...)
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

func write(t *testing.T, name, text string) string {
	t.Helper()
	if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return name
}

// TestDaemonMakesRoom has the daemon collect garbage because little is free: while it
// builds. What clients need stays.
func TestDaemonMakesRoom(t *testing.T) {
	needs(t)
	takeLane(t)
	scene := newPlainScene(t)
	first := must(t, kilnCommand(t, scene, scene.Path("store"), "store", "add", write(t, scene.Path("first"), "1")))[0]
	s := startService(t, scene, "--option", "min-free", "1000T")
	file := write(t, s.scene.Path("hello.nix"),
		`derivation { name = "hello"; system = "`+testenv.System()+`"; builder = "/bin/sh"; args = [ "-c" "echo hello > $out" ]; }`)
	out := s.must("nix-build", file, "--out-link", s.scene.Path("result"))
	for end := time.Now().Add(30 * time.Second); exists(s.real(first)); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("nobody makes room\n%s", s.said())
		}
	}
	s.must("nix-store", "--verify", "--check-contents")
	if !exists(s.real(out)) {
		t.Errorf("what was built has gone:\n%s", s.said())
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
