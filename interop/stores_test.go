//go:build linux

package interop

import (
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kilnbuild/kiln/internal/testenv"
)

// TestBuildsAtDaemon has the daemon of real Nix build what kiln asks for, and copies
// what came out by a binary cache that real Nix reads.
func TestBuildsAtDaemon(t *testing.T) {
	testenv.NixVersion(t)
	kiln := testenv.Kiln(t)
	scene := testenv.NewScene(t, "")
	root := scene.Path("root")
	env := append(scene.Env(), "NIX_STORE_DIR="+scene.Path("store"),
		"NIX_CONFIG=experimental-features = nix-command\nsandbox = false\ntrusted-users = *\nbuild-users-group =\nsubstituters =\n")
	run := func(words ...string) (out, said string, code int) {
		t.Helper()
		cmd := exec.Command(words[0], words[1:]...)
		cmd.Env = env
		var errs strings.Builder
		cmd.Stderr = &errs
		b, err := cmd.Output()
		if err != nil && cmd.ProcessState == nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(b)), errs.String(), cmd.ProcessState.ExitCode()
	}
	must := func(words ...string) string {
		t.Helper()
		out, said, code := run(words...)
		if code != 0 {
			t.Fatalf("%s: exit code %d\n%s", strings.Join(words, " "), code, said)
		}
		return out
	}
	socket := scene.Path("socket")
	daemon := exec.Command("nix-daemon")
	daemon.Env = append(env, "NIX_REMOTE=local", "NIX_DAEMON_SOCKET_PATH="+socket)
	daemon.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := daemon.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		syscall.Kill(-daemon.Process.Pid, syscall.SIGTERM)
		daemon.Wait()
	})
	for range 500 {
		if c, err := net.Dial("unix", socket); err == nil {
			c.Close()
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	uri := "unix://" + socket
	of := func(name, script string) string {
		t.Helper()
		return must("nix-instantiate", "--option", "store", uri, "--expr",
			`derivation { name = "`+name+`"; system = "`+testenv.System()+`"; builder = "/bin/sh"; args = [ "-c" "`+script+`" ]; }`)
	}
	works, fails := of("works", "echo these words; echo built > $out"), of("fails", "echo other words; exit 3")

	if _, said, code := run(kiln, "build", "--store", uri, "--dry-run", works); code != 0 || !strings.Contains(said, "1 derivation will be built") {
		t.Errorf("dry run: exit code %d\n%s", code, said)
	}
	out, said, code := run(kiln, "build", "--store", uri, "-L", "--out-link", scene.Path("result"), works)
	if code != 0 || !strings.HasSuffix(out, "-works") || !strings.Contains(said, "these words") {
		t.Fatalf("build: exit code %d, %q\n%s", code, out, said)
	}
	if target, err := os.Readlink(scene.Path("result")); err != nil || target != out {
		t.Errorf("the link leads to %q, %v", target, err)
	}
	if roots := must("nix-store", "--option", "store", uri, "--query", "--roots", out); !strings.Contains(roots, scene.Path("result")) {
		t.Errorf("the roots are %q", roots)
	}
	if _, said, code := run(kiln, "build", "--store", uri, fails); code != 100 || !strings.Contains(said, "exit code 3") {
		t.Errorf("build of what fails: exit code %d\n%s", code, said)
	}

	// Signed by kiln, read by real Nix; and by kiln again.
	secret := must(kiln, "key", "generate", "test-1")
	if err := os.WriteFile(scene.Path("secret"), []byte(secret), 0o600); err != nil {
		t.Fatal(err)
	}
	derive := exec.Command(kiln, "key", "public")
	derive.Stdin = strings.NewReader(secret)
	public, err := derive.Output()
	if err != nil {
		t.Fatal(err)
	}
	trusted := strings.TrimSpace(string(public))
	if _, said, code := run(kiln, "copy", "--from", uri, "--to", root, out); code == 0 || !strings.Contains(said, "lacks a signature") {
		t.Errorf("copy without a signature: exit code %d\n%s", code, said)
	}
	must(kiln, "store", "sign", "--store", uri, "--key-file", scene.Path("secret"), out)
	cache := "file://" + scene.Path("cache")
	must(kiln, "copy", "--from", uri, "--to", cache+"?compression=zstd", out)
	must(kiln, "copy", "--from", cache, "--to", root, "--option", "trusted-public-keys", trusted, out)
	must(kiln, "store", "verify", "--store", root, "--check-contents")
	must("nix", "copy", "--from", cache, "--to", "local?root="+scene.Path("theirs"), "--option", "trusted-public-keys", trusted, out)
}
