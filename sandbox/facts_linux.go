package sandbox

import (
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// hostFacts are the facts about this process and its kernel. They do not change.
var hostFacts = sync.OnceValue(func() Facts {
	return Facts{Privileged: os.Geteuid() == 0, LandlockABI: landlockABI(), IPv6: hasIPv6()}
})

// hasIPv6 tries to use it.
func hasIPv6() bool {
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		unix.Close(fd)
	}
	return err == nil
}

// landlockABI asks the kernel for its version of Landlock, 0 for none.
func landlockABI() int {
	const createRulesetVersion = 1
	abi, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, createRulesetVersion)
	if errno != 0 {
		return 0
	}
	return int(abi)
}
