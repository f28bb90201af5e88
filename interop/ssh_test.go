//go:build linux

package interop

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/kilnbuild/kiln/internal/testenv"
)

// outsideRoot is set, to the file of a mount namespace, for the test binary when it has to
// be ssh in there, for programs whose own root directory has none.
const outsideRoot = "KILN_INTEROP_OUTSIDE"

// leaveRoot runs a program in a mount namespace.
func leaveRoot(namespace string, words []string) error {
	runtime.LockOSThread()
	f, err := os.Open(namespace)
	if err != nil {
		return err
	}
	// What is shared with other threads cannot enter one.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return err
	}
	if err := unix.Setns(int(f.Fd()), unix.CLONE_NEWNS); err != nil {
		return err
	}
	program, err := exec.LookPath(words[0])
	if err != nil {
		return err
	}
	return syscall.Exec(program, words, os.Environ())
}

// outsideSSH writes, into the scene's directory "outside", a program that is ssh for those
// whose own root directory has none.
func outsideSSH(t *testing.T, scene *testenv.Scene) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	// The namespace of this process; the room sees the same processes.
	text := fmt.Sprintf("#!/bin/sh\nPATH=%s %s=/proc/%d/ns/mnt exec %s \"$@\"\n", os.Getenv("PATH"), outsideRoot, os.Getpid(), visible(t, self))
	if err := os.WriteFile(filepath.Join(scene.Mkdir("outside"), "ssh"), []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
}

// TestSSH copies and builds by a real sshd with kiln at one end and real Nix at the other,
// in both protocols.
func TestSSH(t *testing.T) {
	needs(t)
	releases := []*release{hostNix(t)}
	if testenv.Root() && !wantsTable() {
		releases = nil
	}
	if testenv.Root() {
		releases = append(releases, newestNix(t))
	}
	for _, r := range releases {
		t.Run(r.version, func(t *testing.T) {
			t.Parallel()
			testSSH(t, r)
		})
	}
}

func testSSH(t *testing.T, r *release) {
	scene := newScene(t)
	sshd := testenv.StartSSHD(t, scene)
	kiln := testenv.Kiln(t)
	scene.Mkdir("bin")
	// What a login finds: kiln by the names of Nix's programs, with a store of its own, and
	// the release itself by others.
	there, theirs := scene.Path("there"), scene.Path("theirs")
	config := "NIX_CONFIG=sandbox-paths = /bin/sh=" + visible(t, testenv.Busybox(t))
	for _, name := range []string{"nix-store", "nix-daemon"} {
		link := filepath.Join(scene.Mkdir("as"), name)
		if err := os.Symlink(kiln, link); err != nil {
			t.Fatal(err)
		}
		sshd.Program(t, scene, "bin/"+name, []string{"NIX_REMOTE=" + there, config}, link)
		real := []string{name}
		if r.room != "" {
			real = []string{"nsenter", "--mount=" + r.room, "--", name}
		}
		if name == "nix-daemon" && r.atLeast("2.24") {
			real = append(real, "--extra-experimental-features", "nix-command")
		}
		path, err := exec.LookPath(real[0])
		if err != nil {
			t.Fatal(err)
		}
		real[0] = path
		sshd.Program(t, scene, "real-"+name, nil, real...)
	}
	if r.room != "" {
		outsideSSH(t, scene)
	}
	env := []string{"NIX_SSHOPTS=-i " + sshd.Key + " -p " + fmt.Sprint(sshd.Port) + " " + sshd.Options + " " + sshd.Shared}
	nix := func(words ...string) *exec.Cmd {
		cmd := r.command(scene, words...)
		cmd.Env = append(append(cmd.Env, env...), "PATH="+scene.Path("outside")+":"+os.Getenv("PATH"))
		return cmd
	}
	kilnWith := func(words ...string) *exec.Cmd {
		cmd := sceneCommand(scene, append([]string{kiln}, words...)...)
		cmd.Env = append(cmd.Env, env...)
		return cmd
	}
	here := "local?root=" + scene.Path("here")
	dep := write(t, scene.Path("dep"), "a dependency")
	depPath := must(t, nix("nix-store", "--store", here, "--add", dep))[0]
	text := `builtins.toFile "top" "${builtins.storePath "` + depPath + `"}"`
	topPath := strings.Trim(must(t, nix("nix-instantiate", "--store", here, "--eval", "--read-write-mode", "-E", text))[0], `"`)
	authority := sshd.Authority()
	host := strings.Split(authority, ":")[0]
	clean := func(dirs ...string) {
		for _, d := range dirs {
			if out, err := exec.Command("sh", "-c", `chmod -R u+w "$0" 2>/dev/null; rm -rf "$0"`, d).CombinedOutput(); err != nil {
				t.Fatalf("%v: %s", err, out)
			}
		}
	}
	has := func(root string) {
		t.Helper()
		must(t, r.command(scene, "nix-store", "--store", "local?root="+root, "--verify", "--check-contents"))
		must(t, r.command(scene, "nix-store", "--store", "local?root="+root, "--check-validity", topPath, depPath))
	}
	back := scene.Path("back")
	for _, scheme := range []string{"ssh", "ssh-ng"} {
		uri := scheme + "://" + host
		must(t, nix("nix", "copy", "--no-check-sigs", "--from", here, "--to", uri, topPath))
		has(there)
		must(t, nix("nix", "copy", "--no-check-sigs", "--from", uri, "--to", "local?root="+back, topPath))
		has(back)
		clean(there, back)
		// The other way round.
		program := map[string]string{"ssh": "real-nix-store", "ssh-ng": "real-nix-daemon"}[scheme]
		uri = scheme + "://" + authority + "?ssh-key=" + sshd.Key + "&remote-program=" + scene.Path(program) + "&remote-store=" + theirs
		must(t, kilnWith("copy", "--no-check-sigs", "--from", scene.Path("here"), "--to", uri, topPath))
		has(theirs)
		must(t, kilnWith("copy", "--no-check-sigs", "--from", uri, "--to", back, topPath))
		has(back)
		clean(theirs, back)
	}
	closure := nix("nix-copy-closure", "--to", host, topPath)
	closure.Env = append(closure.Env, "NIX_REMOTE="+here)
	must(t, closure)
	has(there)
	closure = nix("nix-copy-closure", "--from", host, topPath)
	closure.Env = append(closure.Env, "NIX_REMOTE=local?root="+back)
	must(t, closure)
	has(back)

	// Builds, of which this machine builds none.
	for _, scheme := range []string{"ssh", "ssh-ng"} {
		text := `derivation { name = "built-by-` + scheme + `"; system = "` + testenv.System() + `"; builder = "/bin/sh"; dep = builtins.storePath "` + depPath + `"; args = [ "-c" "echo words of the builder; echo $dep > $out" ]; }`
		drv := must(t, nix("nix-instantiate", "--store", here, "-E", text))[0]
		o := run(t, nix("nix-store", "--store", here, "--max-jobs", "0", "--builders", scheme+"://"+host+" "+testenv.System(), "--realise", drv))
		if o.exit != 0 || !strings.Contains(o.stderr, "words of the builder") {
			t.Errorf("%s: exit %d, %v\n%s", scheme, o.exit, o.stdout, o.stderr)
			continue
		}
		content, err := os.ReadFile(scene.Path("here", o.stdout[0]))
		if err != nil || string(content) != depPath+"\n" {
			t.Errorf("%s: built %q, %v", scheme, content, err)
		}
	}
}
