//go:build linux

package interop

import (
	"fmt"
	"os"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

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
	if os.Getenv(outsideRoot) != "" {
		fmt.Fprintln(os.Stderr, leaveRoot(os.Getenv(outsideRoot), append([]string{"ssh"}, os.Args[1:]...)))
		os.Exit(1)
	}
	if os.Getenv(inRoot) != "" {
		if err := keepRoom(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	var groups []string
	for lane := range cap(lanes) {
		lanes <- lane
		groups = append(groups, groupName("nix", lane), groupName("old", lane), groupName("kiln", lane))
	}
	status := testenv.Main(m, groups...)
	if wantsTable() {
		fmt.Print(table.String(), clientTable.String())
	}
	os.Exit(status)
}

// wantsTable tells whether the results are to be printed as a table, in which the
// releases of Nix are compared as well. Without it, root compares with the newest
// release only, as ordinary users do with the machine's.
func wantsTable() bool { return os.Getenv("KILN_INTEROP_TABLE") == "1" }

// groupName names the build users of a program in a lane.
func groupName(program string, lane int) string { return fmt.Sprintf("kt%s%d", program, lane) }

// takeLane waits for a free lane, which the test gives back at its end.
func takeLane(t *testing.T) int {
	lane := <-lanes
	t.Cleanup(func() { lanes <- lane })
	return lane
}

// newScene makes a scene, in memory where that can be had: real Nix would spend
// most of the time waiting for a disk.
func newScene(t *testing.T) *testenv.Scene {
	if testenv.Enclave() == nil {
		return testenv.NewScene(t, memory())
	}
	return newPlainScene(t)
}

// newPlainScene makes a scene in which paths can also be the same inside a
// sandbox: not below /dev, which is another one there.
func newPlainScene(t *testing.T) *testenv.Scene {
	if e := testenv.Enclave(); e != nil {
		return testenv.NewScene(t, e.Dir)
	}
	return testenv.NewScene(t, "")
}

// memory is a directory in memory that everybody may write to and run programs
// from, "" if there is none.
var memory = sync.OnceValue(func() string {
	const dir = "/dev/shm"
	var fs unix.Statfs_t
	if unix.Statfs(dir, &fs) != nil || fs.Type != unix.TMPFS_MAGIC || fs.Flags&unix.ST_NOEXEC != 0 || unix.Access(dir, unix.W_OK) != nil {
		return ""
	}
	return dir
})

// needs skips a test where Nix, the sandbox or the shell for it are missing.
func needs(t *testing.T) {
	t.Helper()
	testenv.NixVersion(t)
	testenv.Busybox(t)
	testenv.Sandbox(t)
}
