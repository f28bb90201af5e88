package testenv

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// grace is how long a killed process may take to be gone.
const grace = 5 * time.Second

// NoProcesses fails the test if a process is left that has to do with mark:
// that has it in its command line, its environment, its working directory, its
// program, or in the sources of its mounts, as a builder has the store in which
// it builds. The process itself and its ancestors do not count. Processes that
// are about to end are given some seconds; what is left then is killed, lest it
// disturb other tests.
func NoProcesses(t testing.TB, mark string) {
	t.Helper()
	var left []process
	for end := time.Now().Add(grace); ; time.Sleep(20 * time.Millisecond) {
		if left = processes(mark); len(left) == 0 {
			return
		}
		if time.Now().After(end) {
			break
		}
	}
	for _, p := range left {
		t.Errorf("a process is left: %d, %s", p.pid, p.why)
		unix.Kill(p.pid, unix.SIGKILL)
	}
}

// A process has to do with a mark.
type process struct {
	pid int
	why string
}

// processes are the living processes that have to do with mark.
func processes(mark string) []process {
	ignored := ancestors()
	dirs, _ := filepath.Glob("/proc/[0-9]*")
	var found []process
	for _, dir := range dirs {
		pid, err := strconv.Atoi(filepath.Base(dir))
		if err != nil || ignored[pid] {
			continue
		}
		if why := mentions(dir, mark); why != "" {
			found = append(found, process{pid, why})
		}
	}
	return found
}

// mentions says where a process mentions the mark, or nothing. What cannot be
// read, because the process ended or is somebody else's, mentions nothing.
func mentions(dir, mark string) string {
	command, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
	words := strings.TrimSpace(strings.ReplaceAll(string(command), "\x00", " "))
	for _, file := range []string{"cmdline", "environ", "mountinfo"} {
		// A zombie reads as empty: it holds nothing any more.
		data, _ := os.ReadFile(filepath.Join(dir, file))
		if bytes.Contains(data, []byte(mark)) && !isOwnNamespace(dir, file) {
			return fmt.Sprintf("%q, by its %s", words, file)
		}
	}
	for _, link := range []string{"cwd", "exe", "root"} {
		if target, _ := os.Readlink(filepath.Join(dir, link)); strings.Contains(target, mark) {
			return fmt.Sprintf("%q, by its %s %s", words, link, target)
		}
	}
	return ""
}

// isOwnNamespace tells whether a mount table is also the test's own: then it
// says nothing of the process, and NoMounts looks at it.
func isOwnNamespace(dir, file string) bool {
	if file != "mountinfo" {
		return false
	}
	own, err := os.Readlink("/proc/self/ns/mnt")
	if err != nil {
		return false
	}
	theirs, err := os.Readlink(filepath.Join(dir, "ns/mnt"))
	return err == nil && own == theirs
}

// ancestors has this process and those that started it.
func ancestors() map[int]bool {
	known := map[int]bool{}
	for pid := os.Getpid(); pid > 0 && !known[pid]; {
		known[pid] = true
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			break
		}
		// The name in brackets may have blanks; state and parent come after it.
		fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
		if len(fields) < 2 {
			break
		}
		pid, _ = strconv.Atoi(fields[1])
	}
	return known
}

// NoMounts fails the test if a mount whose source or mount point mentions mark
// is left in the test's mount namespace.
func NoMounts(t testing.TB, mark string) {
	t.Helper()
	table, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(table)) {
		if strings.Contains(line, mark) {
			t.Errorf("a mount is left: %s", line)
		}
	}
}
