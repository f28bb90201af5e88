package build

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// User is the account that a builder runs as, seen from outside of its sandbox.
// It is this build's alone until it is released.
type User struct {
	UID, GID int
	// Count is how many ids from these on belong to the build.
	Count int
	// Own says that it is the account that kiln itself runs as, because it may
	// not use another.
	Own  bool
	lock *os.File
}

// Release gives the account back. Every process of it must be gone. It may be
// called on nil, and more than once.
func (u *User) Release() {
	if u != nil && u.lock != nil {
		u.lock.Close()
		u.lock = nil
	}
}

// Users hands out build users. It is safe for concurrent use; several programs
// on a machine, Nix among them, agree by locks on files in the pool directories.
type Users struct {
	members  []int  // user ids of the group, nil when ids are allocated
	gid      int    // of the group
	pool     string // directory of the locks
	firstID  int
	slots    int
	own      bool
	mu       sync.Mutex
	lastSlot int
}

// autoIDsPer is how many automatically allocated ids each build has: the same as
// with Nix's auto-allocate-uids, so that the two never use one id at a time.
const autoIDsPer = 65536

// The ids that are allocated where nobody says which: those of start-id and
// id-count in Nix.
const (
	autoFirstID = 872415232
	autoIDCount = autoIDsPer * 128
)

// UsersConfig says where build users come from.
type UsersConfig struct {
	// Group is the name of the group whose members are the build users; where
	// there is no such group, ids are allocated that belong to nobody.
	Group string
	// Auto allocates ids even if there is such a group, and FirstID and IDCount say
	// which; 0 for those that Nix uses.
	Auto             bool
	FirstID, IDCount int
	// StateDir is the machine's Nix state directory (not a chroot store's): the
	// locks are below it.
	StateDir string
	// GroupFile is /etc/group, and PasswdFile /etc/passwd, when empty.
	GroupFile, PasswdFile string
}

// NewUsers finds the build users of this machine. An unprivileged process has
// none but itself.
func NewUsers(c UsersConfig) (*Users, error) {
	if os.Geteuid() != 0 {
		return &Users{own: true}, nil
	}
	if c.GroupFile == "" {
		c.GroupFile = "/etc/group"
	}
	if c.PasswdFile == "" {
		c.PasswdFile = "/etc/passwd"
	}
	u := &Users{}
	if c.Group != "" && !c.Auto {
		group, err := findGroup(c.GroupFile, c.Group)
		if err != nil {
			return nil, err
		}
		if group != nil {
			if len(group.members) == 0 {
				return nil, fmt.Errorf("the build users group '%s' has no members: add users to it, or set build-users-group to an empty string", c.Group)
			}
			if u.members, err = userIDs(c.PasswdFile, group.members); err != nil {
				return nil, fmt.Errorf("build users group '%s': %w", c.Group, err)
			}
			for _, id := range u.members {
				if id == 0 {
					return nil, fmt.Errorf("the user that kiln runs as should not be a member of '%s'", c.Group)
				}
			}
			u.gid = group.gid
			u.pool = filepath.Join(c.StateDir, "userpool")
		}
	}
	if u.members == nil {
		u.firstID, u.slots = cmp.Or(c.FirstID, autoFirstID), cmp.Or(c.IDCount, autoIDCount)/autoIDsPer
		if u.slots < 1 {
			return nil, fmt.Errorf("id-count is %d, which is not enough for one build: each has %d ids", c.IDCount, autoIDsPer)
		}
		u.pool = filepath.Join(c.StateDir, "userpool2")
		if err := u.belongToNobody(c.PasswdFile, c.GroupFile); err != nil {
			return nil, err
		}
	}
	if err := os.MkdirAll(u.pool, 0o755); err != nil {
		return nil, fmt.Errorf("create directory of build user locks: %w", err)
	}
	return u, nil
}

// belongToNobody checks that no account has one of the ids.
func (u *Users) belongToNobody(files ...string) error {
	for _, file := range files {
		err := eachLine(file, func(fields []string) error {
			if len(fields) < 3 {
				return nil
			}
			id, err := strconv.Atoi(fields[2])
			if err == nil && id >= u.firstID && id < u.firstID+u.slots*autoIDsPer {
				return fmt.Errorf("auto-allocated id %d clashes with the account '%s': give builds other ids by start-id and id-count", id, fields[0])
			}
			return nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// GroupID is the id of the group of that name, 0 when there is none: the store
// directory belongs to it where builders write to it themselves.
func GroupID(name string) (int, error) {
	if name == "" {
		return 0, nil
	}
	group, err := findGroup("/etc/group", name)
	if group == nil || err != nil {
		return 0, err
	}
	return group.gid, nil
}

// Describe says in a few words where build users come from.
func (u *Users) Describe() string {
	switch {
	case u.own:
		return "the account of kiln itself"
	case u.members != nil:
		return fmt.Sprintf("%d members of the group %d", len(u.members), u.gid)
	}
	return fmt.Sprintf("ids from %d", u.firstID)
}

// pollInterval is how often a wait for a lock of another program looks again.
const pollInterval = 200 * time.Millisecond

// Acquire gives a user that nobody else has. When there is none it calls onWait
// once and waits.
func (u *Users) Acquire(ctx context.Context, onWait func()) (*User, error) {
	if u.own {
		return &User{UID: os.Geteuid(), GID: os.Getegid(), Count: 1, Own: true}, nil
	}
	for {
		user, err := u.try()
		if user != nil || err != nil {
			return user, err
		}
		if onWait != nil {
			onWait()
			onWait = nil
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(pollInterval):
		}
	}
}

func (u *Users) try() (*User, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.members != nil {
		for _, id := range u.members {
			lock, err := tryLock(filepath.Join(u.pool, strconv.Itoa(id)))
			if lock != nil || err != nil {
				return &User{UID: id, GID: u.gid, Count: 1, lock: lock}, err
			}
		}
		return nil, nil
	}
	for i := range u.slots {
		slot := (u.lastSlot + i) % u.slots
		lock, err := tryLock(filepath.Join(u.pool, fmt.Sprintf("slot-%d", slot)))
		if err != nil {
			return nil, err
		}
		if lock != nil {
			u.lastSlot = slot
			id := u.firstID + slot*autoIDsPer
			return &User{UID: id, GID: id, Count: autoIDsPer, lock: lock}, nil
		}
	}
	return nil, nil
}

// tryLock takes the lock of a file if nobody has it; nil says that somebody has.
func tryLock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|syscall.O_NOFOLLOW|syscall.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open build user lock: %w", err)
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err == nil {
		return f, nil
	}
	f.Close()
	if errors.Is(err, unix.EWOULDBLOCK) {
		return nil, nil
	}
	return nil, fmt.Errorf("lock '%s': %w", path, err)
}

type groupEntry struct {
	gid     int
	members []string
}

// findGroup reads a group database. The file is read rather than the C library
// asked, because a static binary has no name service modules to ask.
func findGroup(file, name string) (*groupEntry, error) {
	var found *groupEntry
	err := eachLine(file, func(fields []string) error {
		if len(fields) < 4 || fields[0] != name || found != nil {
			return nil
		}
		gid, err := strconv.Atoi(fields[2])
		if err != nil {
			return fmt.Errorf("group '%s' has the id '%s'", name, fields[2])
		}
		found = &groupEntry{gid: gid}
		for _, m := range strings.Split(fields[3], ",") {
			if m != "" {
				found.members = append(found.members, m)
			}
		}
		return nil
	})
	return found, err
}

// userIDs gives the ids of users, in the order of their names.
func userIDs(file string, names []string) ([]int, error) {
	ids := make(map[string]int, len(names))
	err := eachLine(file, func(fields []string) error {
		if len(fields) < 4 {
			return nil
		}
		if id, err := strconv.Atoi(fields[2]); err == nil {
			if _, ok := ids[fields[0]]; !ok {
				ids[fields[0]] = id
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	var result []int
	for _, n := range names {
		id, ok := ids[n]
		if !ok {
			return nil, fmt.Errorf("there is no user '%s' in %s", n, file)
		}
		result = append(result, id)
	}
	return result, nil
}

const maxAccountsFile = 64 << 20 // bytes

func eachLine(file string, f func(fields []string) error) error {
	in, err := os.Open(file)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer in.Close()
	lines := bufio.NewScanner(io.LimitReader(in, maxAccountsFile))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		if err := f(strings.Split(lines.Text(), ":")); err != nil {
			return fmt.Errorf("read %s: %w", file, err)
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("read %s: %w", file, err)
	}
	return nil
}
