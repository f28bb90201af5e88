package sandbox

import (
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// hostFacts are the facts about this process and its kernel. They do not change.
var hostFacts = sync.OnceValue(func() Facts {
	return Facts{Privileged: os.Geteuid() == 0, LandlockABI: landlockABI()}
})

// landlockABI asks the kernel for its version of Landlock, 0 for none.
func landlockABI() int {
	const createRulesetVersion = 1
	abi, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, createRulesetVersion)
	if errno != 0 {
		return 0
	}
	return int(abi)
}
