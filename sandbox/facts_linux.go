package sandbox

import (
	"bufio"
	"bytes"
	"os"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"
)

// hostFacts are the facts about this process and its kernel. They do not change.
var hostFacts = sync.OnceValue(func() Facts {
	return Facts{Privileged: os.Geteuid() == 0, LandlockABI: landlockABI(), IgnoredSignals: ignoredSignals()}
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

// ignoredSignals reads which signals this process ignores, and so whatever it
// starts. What the Go runtime handles itself is not among them.
func ignoredSignals() uint64 {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	lines := bufio.NewScanner(bytes.NewReader(status))
	for lines.Scan() {
		if hex, ok := bytes.CutPrefix(lines.Bytes(), []byte("SigIgn:")); ok {
			mask, _ := strconv.ParseUint(string(bytes.TrimSpace(hex)), 16, 64)
			return mask
		}
	}
	return 0
}
