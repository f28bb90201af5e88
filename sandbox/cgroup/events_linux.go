package cgroup

import (
	"cmp"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// events reads how often the kernel has made a limit felt (cgroup-v2.rst, "memory.events"
// and "pids.events"; v1/memory.rst, "memory.oom_control"). The file of pids is the same in
// both versions.
func (g *Group) events() (outOfMemory, refused int64) {
	memory, pids := g.dirs["memory"], g.dirs["pids"]
	file := "memory.oom_control"
	if memory == "" {
		memory, file = g.dirs[unified], "memory.events"
	}
	return field(filepath.Join(memory, file), "oom_kill"), field(filepath.Join(cmp.Or(pids, g.dirs[unified]), "pids.events"), "max")
}

// field reads a number from a file with lines of a name and a number.
func field(file, name string) int64 {
	text, _ := os.ReadFile(file)
	for line := range strings.Lines(string(text)) {
		if words := strings.Fields(line); len(words) == 2 && words[0] == name {
			n, _ := strconv.ParseInt(words[1], 10, 64)
			return n
		}
	}
	return 0
}

// stalls reads the totals of the pressure files, which are in the hierarchy of version 2.
func (g *Group) stalls() Stalls {
	total := func(of string) time.Duration {
		text, _ := os.ReadFile(filepath.Join(g.dirs[unified], of+".pressure"))
		some, _, _ := strings.Cut(string(text), "\n")
		_, n, _ := strings.Cut(some, "total=")
		micros, _ := strconv.ParseInt(n, 10, 64)
		return time.Duration(micros) * time.Microsecond
	}
	if g.dirs[unified] == "" {
		return Stalls{}
	}
	return Stalls{CPU: total("cpu"), Memory: total("memory"), IO: total("io")}
}
