//go:build !linux

package hook

import (
	"os/exec"
	"syscall"
)

func attributes() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setsid: true} }

// awaitExit waits for a program's end. Here that is also the end of its id; that
// somebody else gets it before the signal to the group is unlikely.
func awaitExit(cmd *exec.Cmd) {
	// How it ended is in the state, whatever the error says.
	_ = cmd.Wait()
}
