package main

import (
	"os"
	"strings"
	"syscall"
)

// detachMounts takes away what a container that was killed has left mounted below a
// directory, before that is removed.
func detachMounts(dir string) {
	mounts, _ := os.ReadFile("/proc/self/mounts")
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); len(f) > 1 && strings.HasPrefix(f[1], dir+"/") {
			syscall.Unmount(f[1], syscall.MNT_DETACH)
		}
	}
}
