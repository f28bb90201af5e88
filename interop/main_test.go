//go:build linux

package interop

import (
	"fmt"
	"os"
	"testing"

	"github.com/kilnbuild/kiln/internal/testenv"
)

// lanes lets as many cases run at once, each with build users of its own: a
// program kills everything that its build users run, so two programs may share
// users only when they share the locks on them.
var lanes = make(chan int, 4)

func TestMain(m *testing.M) {
	if os.Getenv(noUserNamespaces) != "" {
		os.Unsetenv(noUserNamespaces)
		fmt.Fprintln(os.Stderr, forbidUserNamespaces(os.Args[1:]))
		os.Exit(1)
	}
	if os.Getenv(inRoot) != "" {
		fmt.Fprintln(os.Stderr, runInRoot(os.Args[1:]))
		os.Exit(1)
	}
	var groups []string
	for lane := range cap(lanes) {
		lanes <- lane
		groups = append(groups, groupName("nix", lane), groupName("old", lane), groupName("kiln", lane))
	}
	status := testenv.Main(m, groups...)
	if text := table.String(); text != "" && os.Getenv("KILN_INTEROP_TABLE") == "1" {
		fmt.Print(text)
	}
	os.Exit(status)
}

// groupName names the build users of a program in a lane.
func groupName(program string, lane int) string { return fmt.Sprintf("kt%s%d", program, lane) }

// takeLane waits for a free lane, which the test gives back at its end.
func takeLane(t *testing.T) int {
	lane := <-lanes
	t.Cleanup(func() { lanes <- lane })
	return lane
}

// newScene makes a scene in memory for root and on disk for others.
func newScene(t *testing.T) *testenv.Scene {
	dir := ""
	if e := testenv.Enclave(); e != nil {
		dir = e.Dir
	}
	return testenv.NewScene(t, dir)
}

// needs skips a test where Nix, the sandbox or the shell for it are missing.
func needs(t *testing.T) {
	t.Helper()
	testenv.NixVersion(t)
	testenv.Busybox(t)
	testenv.Sandbox(t)
}
