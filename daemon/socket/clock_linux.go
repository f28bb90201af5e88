package socket

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// Reloading is what Notify is to be told when a reload begins; it ends with READY=1.
func Reloading() []string {
	words := []string{"RELOADING=1"}
	var now unix.Timespec
	if unix.ClockGettime(unix.CLOCK_MONOTONIC, &now) == nil {
		words = append(words, fmt.Sprintf("MONOTONIC_USEC=%d", now.Nano()/1000))
	}
	return words
}
