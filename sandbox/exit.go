package sandbox

import (
	"fmt"
	"syscall"
	"time"

	"github.com/kilnbuild/kiln/sandbox/cgroup"
)

// Exit is how a program ended, and what it used with everything that it waited
// for.
type Exit struct {
	Code                 int
	Signal               syscall.Signal // 0 when it exited by itself
	UserTime, SystemTime time.Duration
	MaxRSS               int64 // bytes, of the largest process
	// Group is what was counted in the control group; nil if there was none.
	Group *cgroup.Usage
}

func (e Exit) String() string {
	if e.Signal != 0 {
		return fmt.Sprintf("signal %d", int(e.Signal))
	}
	return fmt.Sprintf("exit code %d", e.Code)
}
