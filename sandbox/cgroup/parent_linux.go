package cgroup

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/opencontainers/cgroups"
	"golang.org/x/sys/unix"
)

// The hierarchies of version 1 that groups are made in, by the names of their
// controllers, and what each is needed for. The empty name is the hierarchy of version
// 2, which counts stalls also where all controllers are elsewhere.
var hierarchies = []struct {
	name string
	of   Resource
}{
	{"memory", Memory}, {"pids", Processes}, {"cpu", CPU}, {"cpuacct", ""}, {"blkio", ""}, {unified, ""},
}

const unified = ""

// root is where control groups are mounted.
const root = "/sys/fs/cgroup"

// Parent is where a process makes groups. It makes a directory in each hierarchy when
// the first group is asked for. It is safe for concurrent use and must be closed.
type Parent struct {
	mu      sync.Mutex
	opened  bool
	closed  bool
	version int
	// dirs are the directories of this process by the names of their hierarchies; of
	// version 2 there is only one.
	dirs  map[string]string
	locks []*os.File
	lacks map[Resource]string // why a resource cannot be limited
	next  uint64
}

// NewParent makes a Parent. Nothing is made on the machine yet.
func NewParent() *Parent { return &Parent{} }

// prefix begins the names of the directories of Parents.
const prefix = "kiln-"

// open makes the directories. The caller holds p.mu.
func (p *Parent) open() {
	p.opened = true
	p.dirs, p.lacks = make(map[string]string), make(map[Resource]string)
	name := prefix + strings.ToLower(rand.Text()[:12])
	if cgroups.IsCgroup2UnifiedMode() {
		p.version = 2
		p.openUnified(name)
		return
	}
	p.version = 1
	for _, h := range hierarchies {
		above, err := ownGroup(h.name)
		if err == nil {
			err = p.session(h.name, above, name)
		}
		if err != nil && h.of != "" {
			p.lacks[h.of] = fmt.Sprintf("no control group of the controller '%s': %v", h.name, explain(err))
		}
	}
}

// ownGroup is the directory of the group that this process is in.
func ownGroup(hierarchy string) (string, error) {
	if hierarchy != unified {
		return cgroups.GetOwnCgroupPath(hierarchy)
	}
	own, err := cgroups.ParseCgroupFile("/proc/self/cgroup")
	if err != nil {
		return "", err
	}
	at := root
	if cgroups.IsCgroup2HybridMode() {
		at = filepath.Join(root, "unified")
	}
	dir := filepath.Join(at, own[unified])
	if _, err := os.Stat(filepath.Join(dir, "cgroup.procs")); err != nil {
		return "", fmt.Errorf("no hierarchy of version 2: %w", err)
	}
	return dir, nil
}

// explain adds what a person can do about an error.
func explain(err error) error {
	if errors.Is(err, unix.EROFS) {
		return fmt.Errorf("%w (in a container: give it %s writable, with docker run -v %s:%s, and on cgroup 2 also --cgroupns=host)", err, root, root, root)
	}
	return err
}

// wantedControllers are what groups of version 2 are to have.
var wantedControllers = []string{"memory", "pids", "cpu", "io"}

// openUnified looks for the nearest group, from the own one upwards, whose groups may
// have controllers: one that has processes itself may not give them away.
func (p *Parent) openUnified(name string) {
	own, err := ownGroup(unified)
	if err == nil {
		own, err = vacate(own)
	}
	var found []string
	for dir := own; err == nil; dir = filepath.Dir(dir) {
		for _, c := range wantedControllers {
			if !slices.Contains(found, c) {
				// Why not, if not, shows in what is there afterwards.
				os.WriteFile(filepath.Join(dir, "cgroup.subtree_control"), []byte("+"+c), 0)
			}
		}
		text, rerr := os.ReadFile(filepath.Join(dir, "cgroup.subtree_control"))
		found = strings.Fields(string(text))
		if rerr == nil && slices.Contains(found, "memory") && slices.Contains(found, "pids") || dir == root || !strings.HasPrefix(dir, root) {
			if err = p.session(unified, dir, name); err == nil {
				for _, c := range found {
					os.WriteFile(filepath.Join(p.dirs[unified], "cgroup.subtree_control"), []byte("+"+c), 0)
				}
			}
			break
		}
	}
	for controller, of := range map[string]Resource{"memory": Memory, "pids": Processes, "cpu": CPU} {
		switch {
		case err != nil:
			p.lacks[of] = fmt.Sprintf("no control group can be made: %v", explain(err))
		case !slices.Contains(found, controller):
			p.lacks[of] = fmt.Sprintf("the controller '%s' is not given to control groups here", controller)
		}
	}
}

// leaf is the group into which the processes of a container go.
const leaf = "kiln.processes"

// vacate gives a container's own group, without processes in it, so that its groups may
// have controllers: without that only the group around the container could give them, which
// is not the container's to use, or not to be seen. All that is in the container moves to a
// leaf. Anywhere else it gives the group that it is given.
func vacate(own string) (string, error) {
	if filepath.Base(own) == leaf {
		return filepath.Dir(own), nil // by another process of ours
	}
	if !isContainers(own) {
		return own, nil
	}
	into := filepath.Join(own, leaf)
	if err := os.Mkdir(into, 0o755); err != nil && !errors.Is(err, os.ErrExist) {
		return "", err
	}
	if err := moveAll(own, into); err != nil {
		return "", fmt.Errorf("move the container's processes out of its group: %w", err)
	}
	return own, nil
}

// isContainers tells whether a group, our own, is that of a container: its first process is
// in it too, which is never so on a machine, and it has limits itself, as only the root of
// all groups has not.
func isContainers(own string) bool {
	first, err := cgroups.ParseCgroupFile("/proc/1/cgroup")
	if err != nil {
		return false
	}
	ours, err := cgroups.ParseCgroupFile("/proc/self/cgroup")
	return err == nil && first[unified] == ours[unified] && exists(own, "cgroup.type")
}

// moveAll moves every process of one group to another.
func moveAll(from, into string) error {
	// Processes that are started meanwhile are in the old group.
	for range 10 {
		text, err := os.ReadFile(filepath.Join(from, "cgroup.procs"))
		if err != nil {
			return err
		}
		list := strings.Fields(string(text))
		if len(list) == 0 {
			return nil
		}
		for _, pid := range list {
			if err := os.WriteFile(filepath.Join(into, "cgroup.procs"), []byte(pid), 0); err != nil && !errors.Is(err, unix.ESRCH) {
				return err
			}
		}
	}
	return errors.New("there are always new ones")
}

// session makes the directory of this process in one hierarchy, and removes those that
// others have left that ended without. Whoever is alive has a lock on its own.
func (p *Parent) session(hierarchy, above, name string) error {
	dir := filepath.Join(above, name)
	sweep(above)
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	f, err := os.Open(dir)
	if err == nil {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	}
	if err != nil {
		if f != nil {
			f.Close()
		}
		return errors.Join(err, os.Remove(dir))
	}
	p.dirs[hierarchy] = dir
	p.locks = append(p.locks, f)
	return nil
}

// sweep removes the directories of processes that are gone.
func sweep(above string) {
	left, _ := filepath.Glob(filepath.Join(above, prefix+"*"))
	for _, dir := range left {
		f, err := os.Open(dir)
		if err != nil {
			continue
		}
		if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
			removeAll(dir)
		}
		f.Close()
	}
}

// removeAll removes a group with the groups in it, as far as no processes are in them.
func removeAll(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		if e.IsDir() {
			err = errors.Join(err, unix.Rmdir(filepath.Join(dir, e.Name())))
		}
	}
	return errors.Join(err, unix.Rmdir(dir))
}

// Close removes the directories. What still has processes in it is left, for the next
// process to remove.
func (p *Parent) Close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	for _, dir := range p.dirs {
		removeAll(dir)
	}
	for _, f := range p.locks {
		f.Close()
	}
	p.dirs, p.locks = nil, nil
	return nil
}
