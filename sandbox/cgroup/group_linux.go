package cgroup

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/cgroups/fs"
	"github.com/opencontainers/cgroups/fs2"
	"golang.org/x/sys/unix"
)

// Group is a control group for one program and all that it starts. It is safe for
// concurrent use and must be closed.
type Group struct {
	manager interface {
		Set(*cgroups.Resources) error
		GetStats() (*cgroups.Stats, error)
	}
	dirs      map[string]string // by hierarchy
	entrances []*os.File
	lacks     []Lack

	mu     sync.Mutex
	last   Usage
	closed bool
}

// cpuPeriod is the time for which a CPU quota holds, in microseconds: what the kernel
// takes if nobody says.
const cpuPeriod = 100_000

// Create makes a group with limits. It is an error if the limits cannot be meant, or a
// limit that the machine enforces cannot be set; that the machine does not enforce one
// is no error: see Lacks.
func (p *Parent) Create(l Limits) (*Group, error) {
	if err := l.Validate(); err != nil {
		return nil, fmt.Errorf("create control group: %w", err)
	}
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return nil, errors.New("create control group: the parent is closed")
	}
	if !p.opened {
		p.open()
	}
	p.next++
	number := strconv.FormatUint(p.next, 10)
	p.mu.Unlock()

	g := &Group{dirs: make(map[string]string)}
	for _, of := range l.Wanted() {
		if why, ok := p.lacks[of]; ok {
			g.lacks = append(g.lacks, Lack{of, why})
		}
	}
	if err := g.create(p, number, p.enforceable(l)); err != nil {
		return nil, errors.Join(fmt.Errorf("create control group: %w", err), g.Close())
	}
	return g, nil
}

// Enforced lists what can be limited. It is known after the first group was created.
func (p *Parent) Enforced() (list []Resource) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, of := range []Resource{Memory, Processes, CPU} {
		if _, lacks := p.lacks[of]; p.opened && !lacks {
			list = append(list, of)
		}
	}
	return list
}

// enforceable gives those of the limits that the machine can enforce.
func (p *Parent) enforceable(l Limits) Limits {
	for of := range p.lacks {
		switch of {
		case Memory:
			l.Memory = 0
		case Processes:
			l.Processes = 0
		case CPU:
			l.CPUWeight, l.CPUQuota = 0, 0
		}
	}
	return l
}

func (g *Group) create(p *Parent, number string, l Limits) error {
	for _, hierarchy := range slices.Sorted(maps.Keys(p.dirs)) {
		dir := filepath.Join(p.dirs[hierarchy], number)
		if err := os.Mkdir(dir, 0o755); err != nil {
			return err
		}
		g.dirs[hierarchy] = dir
		f, err := os.OpenFile(filepath.Join(dir, "cgroup.procs"), os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		g.entrances = append(g.entrances, f)
	}
	if len(g.dirs) == 0 {
		return nil
	}
	r := &cgroups.Resources{Memory: l.Memory, SkipDevices: true}
	if l.Processes > 0 {
		r.PidsLimit = &l.Processes
	}
	if l.CPUQuota > 0 {
		r.CpuQuota, r.CpuPeriod = int64(l.CPUQuota)*cpuPeriod/100, cpuPeriod
	}
	config := &cgroups.Cgroup{Resources: r}
	var err error
	if p.version == 2 {
		r.CpuWeight = l.CPUWeight
		if l.Memory > 0 && exists(g.dirs[unified], "memory.swap.max") {
			r.MemorySwap = l.Memory // memory and swap together
		}
		g.manager, err = fs2.NewManager(config, g.dirs[unified])
	} else {
		if l.CPUWeight > 0 {
			const usualShares, usualWeight = 1024, 100
			r.CpuShares = max(l.CPUWeight*usualShares/usualWeight, 2)
		}
		if l.Memory > 0 && exists(g.dirs["memory"], "memory.memsw.limit_in_bytes") {
			r.MemorySwap = l.Memory
		}
		g.manager, err = fs.NewManager(config, g.dirs)
	}
	if err == nil && len(l.Wanted()) > 0 {
		err = g.manager.Set(r)
	}
	return err
}

func exists(dir, name string) bool {
	_, err := os.Stat(filepath.Join(dir, name))
	return err == nil
}

// Entrances are the files in which a process that is to be in the group writes "0". They
// are the group's, and are closed with it.
func (g *Group) Entrances() []*os.File { return g.entrances }

// Lacks are the limits that were asked for and are not enforced.
func (g *Group) Lacks() []Lack { return g.lacks }

// Counts tells whether the group is one at all: whether anything is counted.
func (g *Group) Counts() bool { return len(g.dirs) > 0 }

// Usage is what was used so far, after Close what was used up to then. What cannot be read
// is left out.
func (g *Group) Usage() Usage {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.closed {
		g.read()
	}
	return g.last
}

func (g *Group) read() {
	if g.manager == nil {
		return
	}
	stats, err := g.manager.GetStats()
	if err != nil {
		return
	}
	u := Usage{
		UserTime: time.Duration(stats.CpuStats.CpuUsage.UsageInUsermode), SystemTime: time.Duration(stats.CpuStats.CpuUsage.UsageInKernelmode),
		Memory: int64(stats.MemoryStats.Usage.Usage), PeakMemory: int64(stats.MemoryStats.Usage.MaxUsage),
		Processes: int64(stats.PidsStats.Current),
	}
	for _, e := range stats.BlkioStats.IoServiceBytesRecursive {
		switch e.Op {
		case "Read":
			u.ReadBytes += int64(e.Value)
		case "Write":
			u.WriteBytes += int64(e.Value)
		}
	}
	u.OutOfMemory, u.Refused = g.events()
	u.Stalls = g.stalls()
	g.last = u
}

// Close removes the group. No process may be in it any more; those that are about to end
// are given some time. A group that cannot be removed is left for the Parent.
func (g *Group) Close() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.closed {
		return nil
	}
	g.read()
	g.closed = true
	for _, f := range g.entrances {
		f.Close()
	}
	var errs []error
	for _, dir := range g.dirs {
		errs = append(errs, remove(dir))
	}
	return errors.Join(errs...)
}

// remove removes a group, waiting for processes that are about to be gone.
func remove(dir string) error {
	const patience = 2 * time.Second
	pause := 100 * time.Microsecond
	for end := time.Now().Add(patience); ; time.Sleep(pause) {
		err := unix.Rmdir(dir)
		if err == nil || errors.Is(err, unix.ENOENT) {
			return nil
		}
		if !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.EINTR) || time.Now().After(end) {
			return fmt.Errorf("remove control group '%s': %w", dir, err)
		}
		pause = min(2*pause, 50*time.Millisecond)
	}
}
