package testenv

import (
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
)

// ordinaryID is a user that no machine has, so that what it leaves behind is
// recognised.
const ordinaryID = 899_999_999

func oneID(id int) []syscall.SysProcIDMap {
	return []syscall.SysProcIDMap{{ContainerID: id, HostID: id, Size: 1}}
}

// AsOrdinaryUser lets a test that was started as root run as an ordinary user.
// To an ordinary user it just says true. To root it says false, after it ran
// this one test again in a process of an ordinary user and failed the test if
// that failed:
//
//	if !testenv.AsOrdinaryUser(t) {
//		return
//	}
//
// With KILN_ORDINARY_FOLLOWS=1 it does not run the test again: an ordinary user runs
// all tests next.
func AsOrdinaryUser(t *testing.T) bool {
	t.Helper()
	if !Root() {
		return true
	}
	if os.Getenv("KILN_ORDINARY_FOLLOWS") == "1" {
		t.Log("an ordinary user runs this next")
		return false
	}
	// By descriptor, and with directories of its own: the test's binary and its
	// working directory may be where an ordinary user cannot reach.
	self, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer self.Close()
	home, err := os.MkdirTemp("", "kiln-ordinary-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { removeTree(t, home) })
	if err := os.Chown(home, ordinaryID, ordinaryID); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/fd/3", "-test.v=true", "-test.run=^"+t.Name()+"$")
	cmd.Args[0] = filepath.Base(os.Args[0])
	cmd.ExtraFiles = []*os.File{self}
	cmd.Dir = home
	cmd.Env = append(os.Environ(), "HOME="+home, "TMPDIR="+home, "GOTMPDIR=", "USER=ordinary", "LOGNAME=ordinary", "XDG_RUNTIME_DIR=")
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Credential: &syscall.Credential{Uid: ordinaryID, Gid: ordinaryID},
		Pdeathsig:  syscall.SIGKILL,
	}
	out, err := cmd.CombinedOutput()
	t.Logf("as an ordinary user:\n%s", out)
	if err != nil {
		t.Fatalf("as an ordinary user: %v", err)
	}
	return false
}
