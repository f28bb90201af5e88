package testenv

import (
	"debug/elf"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"testing"
)

// Root tells whether the test runs as root.
func Root() bool { return os.Geteuid() == 0 }

// SkipSandbox ends a test that needs an isolation which this machine does not
// give. With KILN_REQUIRE_SANDBOX=1 that is a failure.
func SkipSandbox(t testing.TB, format string, args ...any) {
	t.Helper()
	skip(t, "KILN_REQUIRE_SANDBOX", fmt.Sprintf(format, args...))
}

// SkipTool ends a test that needs a program which is not there. With
// KILN_REQUIRE_NIX=1 that is a failure. The message names what to install.
func SkipTool(t testing.TB, format string, args ...any) {
	t.Helper()
	skip(t, "KILN_REQUIRE_NIX", fmt.Sprintf(format, args...))
}

func skip(t testing.TB, variable, reason string) {
	t.Helper()
	if os.Getenv(variable) == "1" {
		t.Fatalf("%s (and %s=1 says that this must not be)", reason, variable)
	}
	t.Skip(reason)
}

// NeedRoot skips a test that only root can do.
func NeedRoot(t testing.TB) {
	t.Helper()
	if !Root() {
		t.Skip("needs root")
	}
}

// Sandbox skips a test on a machine where this user cannot make the namespaces
// of a sandbox.
func Sandbox(t testing.TB) {
	t.Helper()
	if err := namespaces(); err != nil {
		SkipSandbox(t, "no sandbox on this machine: %v", err)
	}
}

// Busybox is the path of a static busybox, the shell that builders have in a
// sandbox without anything else.
func Busybox(t testing.TB) string {
	t.Helper()
	path, err := busybox()
	if err != nil {
		SkipTool(t, "%v; install it with: apt-get install busybox-static", err)
	}
	return path
}

var busybox = sync.OnceValues(func() (string, error) {
	path, err := exec.LookPath("busybox")
	if err != nil {
		return "", fmt.Errorf("no busybox in PATH")
	}
	f, err := elf.Open(path)
	if err != nil {
		return "", fmt.Errorf("read %s: %w", path, err)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return "", fmt.Errorf("%s is not static, so it cannot run alone in a sandbox", path)
		}
	}
	return path, nil
})

// Compiler is the path of gcc.
func Compiler(t testing.TB) string {
	t.Helper()
	path, err := exec.LookPath("gcc")
	if err != nil {
		SkipTool(t, "no gcc in PATH; install it with: apt-get install gcc libc6-dev")
	}
	return path
}

// System is the Nix name of the system that tests run on.
func System() string {
	cpu := map[string]string{"amd64": "x86_64", "arm64": "aarch64", "386": "i686"}[runtime.GOARCH]
	if cpu == "" {
		cpu = runtime.GOARCH
	}
	return cpu + "-" + runtime.GOOS
}

// NixVersion is the version of real Nix, as "2.8.0". It skips the test where
// Nix is not installed.
func NixVersion(t testing.TB) string {
	t.Helper()
	version, err := nixVersion()
	if err != nil {
		SkipTool(t, "no real Nix: %v; install it with: apt-get install nix-bin", err)
	}
	return version
}

var nixVersion = sync.OnceValues(func() (string, error) {
	for _, program := range []string{"nix", "nix-store", "nix-instantiate", "nix-hash"} {
		if _, err := exec.LookPath(program); err != nil {
			return "", err
		}
	}
	// A program that opens no store, since this user may have none; and even this
	// one wants to know its user's name, who may have no account.
	cmd := exec.Command("nix-hash", "--version")
	cmd.Env = append(os.Environ(), "USER=tester", "HOME=/")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("run nix-hash --version: %w: %s", err, out)
	}
	fields := strings.Fields(string(out))
	if len(fields) == 0 {
		return "", fmt.Errorf("nix-hash --version prints nothing")
	}
	return fields[len(fields)-1], nil
})
