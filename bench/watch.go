package main

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"
)

// A watch looks at the processes of a daemon while it works: Nix's has one for each client,
// of which nothing is known any more when they have ended.
type watch struct {
	pid int // of the daemon

	mu       sync.Mutex
	cpu      map[int]time.Duration // of the others
	rss      int64                 // bytes, the most that one of the others had
	together int64                 // bytes that all have together, when look was called last
}

// look takes what there is to see now.
func (w *watch) look() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.together = together(w.pid)
	children, _ := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", w.pid, w.pid))
	for _, word := range strings.Fields(string(children)) {
		pid, err := strconv.Atoi(word)
		if err != nil {
			continue
		}
		w.together += together(pid)
		w.rss = max(w.rss, kibibytes(pid, "status", "VmHWM:"))
		text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/schedstat", pid))
		if ns, err := strconv.ParseInt(strings.Split(string(text), " ")[0], 10, 64); err == nil {
			w.cpu[pid] = time.Duration(ns)
		}
	}
}

// together is a process's part of memory, of which what several have counts once.
func together(pid int) int64 { return kibibytes(pid, "smaps_rollup", "Pss:") }

// kibibytes is a figure of a process, 0 if it is not known.
func kibibytes(pid int, file, name string) int64 {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, file))
	if err != nil {
		return 0
	}
	for line := range bytes.Lines(text) {
		if fields := bytes.Fields(line); len(fields) > 1 && string(fields[0]) == name {
			n, _ := strconv.ParseInt(string(fields[1]), 10, 64)
			return n << 10
		}
	}
	return 0
}

// every looks from time to time, until the function that it gives is called.
func (w *watch) every(interval time.Duration) (stop func()) {
	over, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-time.After(interval):
				w.look()
			case <-over:
				return
			}
		}
	}()
	return func() { close(over); <-ended }
}

// add adds what others than the daemon itself took.
func (w *watch) add(c *cost) {
	for _, d := range w.cpu {
		c.CPU += d
	}
	c.RSS = max(c.RSS, w.rss, w.together)
}
