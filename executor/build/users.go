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
	"slices"
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
	of   *Users
}

// Release gives the account back. Every process of it must be gone. It may be
// called on nil, and more than once.
func (u *User) Release() {
	if u != nil && u.lock != nil {
		u.lock.Close()
		u.lock = nil
		u.of.count(-1, 0)
	}
}

// Users hands out build users. It is safe for concurrent use; several programs
// on a machine, Nix among them, agree by locks on files in the pool directories.
type Users struct {
	own  bool // there are none but kiln's own account
	pool userPool
	// reserve is for when pool is empty and nobody will give anything back to it:
	// every user that was handed out belongs to a builder that waits for a nested
	// build, which needs a user itself. It may be nil.
	reserve userPool
	// storeGroup is what builders without a sandbox have in the place of their group:
	// they make their outputs in the store directory themselves, so it is to be that
	// of the directory. For ids that belong to nobody it is the first of them.
	storeGroup int

	mu      sync.Mutex
	held    int // users that are handed out
	waiting int // of those, the builders that wait
}

// userPool is a set of users, each with a lock. try gives nil if all are taken; it is
// called by one goroutine at a time.
type userPool interface {
	try() (*User, error)
	// take is try for one of them; ours is false if it is none.
	take(uid int) (user *User, ours bool, err error)
	describe() string
	size() int
}

// Waits says that a builder that has a user waits for another one to be built, and
// by the function that it returns, that it waits no more. The other one does not
// have to wait in turn for a user who is given back only then.
func (u *Users) Waits() (end func()) {
	u.count(0, 1)
	return func() { u.count(0, -1) }
}

func (u *Users) count(held, waiting int) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.held += held
	u.waiting += waiting
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
	allocated := &allocatedIDs{dir: filepath.Join(c.StateDir, "userpool2"),
		first: cmp.Or(c.FirstID, autoFirstID), slots: cmp.Or(c.IDCount, autoIDCount) / autoIDsPer, per: autoIDsPer}
	clash := allocated.check(c.PasswdFile, c.GroupFile)
	u := &Users{pool: allocated, storeGroup: allocated.first}
	if c.Group != "" {
		group, err := findGroup(c.GroupFile, c.Group)
		if err != nil {
			return nil, err
		}
		if group != nil {
			u.storeGroup = group.gid
		}
		if group != nil && !c.Auto {
			members, err := group.pool(c.PasswdFile, filepath.Join(c.StateDir, "userpool"))
			if err != nil {
				return nil, err
			}
			u.pool = members
			if clash == nil {
				// They differ from the members of the group in nothing but the number.
				allocated.gid, allocated.per = group.gid, 1
				u.reserve = allocated
			}
			return u, nil
		}
	}
	return u, clash
}

// pool is the members of a group of build users.
func (g *groupEntry) pool(passwd, dir string) (*groupMembers, error) {
	if len(g.members) == 0 {
		return nil, fmt.Errorf("the build users group '%s' has no members: add users to it, or set build-users-group to an empty string", g.name)
	}
	ids, err := userIDs(passwd, g.members)
	if err != nil {
		return nil, fmt.Errorf("build users group '%s': %w", g.name, err)
	}
	if slices.Contains(ids, 0) {
		return nil, fmt.Errorf("the user that kiln runs as should not be a member of '%s'", g.name)
	}
	return &groupMembers{dir: dir, ids: ids, gid: g.gid}, nil
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
	if u.own {
		return "the account of kiln itself"
	}
	return u.pool.describe()
}

// pollInterval is how often a wait for a lock of another program looks again.
const pollInterval = 200 * time.Millisecond

// Acquire gives a user that nobody else has. When there is none it calls onWait
// once and waits.
func (u *Users) Acquire(ctx context.Context, onWait func()) (*User, error) {
	if u.own {
		return &User{UID: os.Geteuid(), GID: os.Getegid(), Count: 1, Own: true}, nil
	}
	return awaitUser(ctx, u.try, onWait)
}

// AcquireAgain gives a user that has had a build before, for what that has left. When
// somebody else has it, it calls onWait once and waits.
func (u *Users) AcquireAgain(ctx context.Context, uid int, onWait func()) (*User, error) {
	if u.own {
		if uid != os.Geteuid() {
			return nil, fmt.Errorf("become user %d: only that one can, and root", uid)
		}
		return u.Acquire(ctx, nil)
	}
	return awaitUser(ctx, func() (*User, error) { return u.take(uid) }, onWait)
}

// awaitUser tries until there is a user.
func awaitUser(ctx context.Context, try func() (*User, error), onWait func()) (*User, error) {
	for {
		user, err := try()
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

// take gives a user if nobody has it.
func (u *Users) take(uid int) (*User, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, pool := range []userPool{u.pool, u.reserve} {
		if pool == nil {
			continue
		}
		user, ours, err := pool.take(uid)
		if user != nil {
			user.of = u
			u.held++
		}
		if ours || err != nil {
			return user, err
		}
	}
	return nil, fmt.Errorf("become user %d: it is no build user (any more)", uid)
}

func (u *Users) try() (*User, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	user, err := u.pool.try()
	if user == nil && err == nil && u.held > 0 && u.held == u.waiting {
		size := u.pool.size()
		if u.reserve != nil {
			size += u.reserve.size()
			user, err = u.reserve.try()
		}
		if user == nil && err == nil && u.held >= size {
			return nil, fmt.Errorf("all %d build users belong to builders that wait for nested builds, which need one as well: nest fewer of them, or have more build users", size)
		}
	}
	if user != nil {
		user.of = u
		u.held++
	}
	return user, err
}

// groupMembers are the users of a group, as Nix locks them.
type groupMembers struct {
	dir string // of the locks
	ids []int
	gid int
}

func (m *groupMembers) size() int { return len(m.ids) }
func (m *groupMembers) describe() string {
	return fmt.Sprintf("%d members of the group %d", len(m.ids), m.gid)
}

func (m *groupMembers) try() (*User, error) {
	for _, id := range m.ids {
		if user, err := m.lock(id); user != nil || err != nil {
			return user, err
		}
	}
	return nil, nil
}

func (m *groupMembers) take(uid int) (*User, bool, error) {
	if !slices.Contains(m.ids, uid) {
		return nil, false, nil
	}
	user, err := m.lock(uid)
	return user, true, err
}

func (m *groupMembers) lock(id int) (*User, error) {
	lock, err := tryLock(m.dir, strconv.Itoa(id))
	if lock == nil {
		return nil, err
	}
	return &User{UID: id, GID: m.gid, Count: 1, lock: lock}, nil
}

// allocatedIDs are ranges of ids that belong to nobody, as Nix locks them with
// auto-allocate-uids.
type allocatedIDs struct {
	dir   string // of the locks
	first int
	slots int
	per   int // how many ids of a range are used
	gid   int // 0 for the same as the user's
	last  int // slot that was taken
}

func (a *allocatedIDs) size() int        { return a.slots }
func (a *allocatedIDs) describe() string { return fmt.Sprintf("ids from %d", a.first) }

func (a *allocatedIDs) try() (*User, error) {
	for i := range a.slots {
		slot := (a.last + i) % a.slots
		user, err := a.lock(slot)
		if err != nil {
			return nil, err
		}
		if user != nil {
			a.last = slot
			return user, nil
		}
	}
	return nil, nil
}

func (a *allocatedIDs) take(uid int) (*User, bool, error) {
	slot := (uid - a.first) / autoIDsPer
	if uid < a.first || slot >= a.slots || uid != a.first+slot*autoIDsPer {
		return nil, false, nil
	}
	user, err := a.lock(slot)
	return user, true, err
}

func (a *allocatedIDs) lock(slot int) (*User, error) {
	lock, err := tryLock(a.dir, fmt.Sprintf("slot-%d", slot))
	if lock == nil {
		return nil, err
	}
	id := a.first + slot*autoIDsPer
	return &User{UID: id, GID: cmp.Or(a.gid, id), Count: a.per, lock: lock}, nil
}

// check says what is wrong with the ids: that there are too few, or that an account
// has one of them.
func (a *allocatedIDs) check(files ...string) error {
	if a.slots < 1 {
		return fmt.Errorf("id-count is not enough for one build, which has %d ids", autoIDsPer)
	}
	for _, file := range files {
		err := eachLine(file, func(fields []string) error {
			if len(fields) < 3 {
				return nil
			}
			id, err := strconv.Atoi(fields[2])
			if err == nil && id >= a.first && id < a.first+a.slots*autoIDsPer {
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

// tryLock takes the lock of a file if nobody has it; nil says that somebody has. It
// makes the directory if that is missing.
func tryLock(dir, name string) (*os.File, error) {
	path := filepath.Join(dir, name)
	const flags = os.O_RDWR | os.O_CREATE | syscall.O_NOFOLLOW | syscall.O_CLOEXEC
	f, err := os.OpenFile(path, flags, 0o600)
	if errors.Is(err, os.ErrNotExist) {
		if err = os.MkdirAll(dir, 0o755); err == nil {
			f, err = os.OpenFile(path, flags, 0o600)
		}
	}
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
	name    string
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
		found = &groupEntry{name: name, gid: gid}
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
