package local

import (
	"bytes"
	"cmp"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// Transient is a kind of thing that exists for a while only. It is a word
// without blanks.
type Transient string

// The kinds that the store itself removes when the process that noted them is
// dead. Others are for Options.RecoverTransient.
const (
	// TransientTree is a file tree. If it lies directly in the store directory,
	// and somebody else could use its name, whoever makes it must hold locks
	// (LockPaths) that others would need for that, and must have taken them
	// before: it is removed only when none of the session's locks is held by
	// somebody new.
	TransientTree Transient = "tree"
	// TransientFile is a file that is not a directory, with a name that nobody
	// else uses.
	TransientFile Transient = "file"

	transientLock  Transient = "lock"     // a lock file, which may belong to somebody new
	transientOwned Transient = "owned"    // a file or tree that is locked itself while its maker lives
	transientLog   Transient = "log"      // a plain log, and the files that it is compressed to
	transientDir   Transient = "writable" // a directory of an object that must be canonical again
)

// Note writes down that something is about to be made that must not outlive
// this process. It is called before the thing is made, and Done after it is gone.
// path is absolute, and lies below the store's directories or one of
// Options.ScratchDirs unless the kind is one of Options.RecoverTransient.
func (s *Store) Note(kind Transient, path string) error { return s.journal.note(kind, path) }

// Done takes back what Note was told, which needs no room on the disk. The thing is
// forgotten even if that cannot be written down, which is an error.
func (s *Store) Done(kind Transient, path string) error { return s.journal.done(kind, path) }

// rotateAt is the size of a session file, in bytes, from which on it is replaced
// by one without what is over.
const rotateAt = 64 << 10

// journal is the session file of this process and store. It is made for the
// first note, and locked as long as the process lives. Its records are "+", the kind, a
// blank, the path, and a NUL. To take one back, its "+" is made a "-", which can be
// written where there is no room for another record. (Kilns before this one appended
// the same with a "-", which does as well.)
type journal struct {
	store *Store
	mu    sync.Mutex
	file  *os.File
	size  int64               // of whole records
	live  map[transient]int64 // where their records begin
	ended bool
}

type transient struct {
	kind Transient
	path string
}

func (t transient) record(sign byte) []byte {
	return fmt.Appendf(nil, "%c%s %s\x00", sign, t.kind, t.path)
}

func (j *journal) init(s *Store) {
	j.store, j.live = s, make(map[transient]int64)
}

func (j *journal) note(kind Transient, paths ...string) error {
	if err := j.store.changes(); err != nil {
		return err
	}
	for _, path := range paths {
		if err := j.acceptable(transient{kind, path}); err != nil {
			return fmt.Errorf("note '%s' in the session: %w", path, err)
		}
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.ended {
		return errClosed
	}
	fresh := make([]transient, 0, len(paths))
	for _, path := range paths {
		t := transient{kind, path}
		if _, ok := j.live[t]; !ok && !slices.Contains(fresh, t) {
			fresh = append(fresh, t)
		}
	}
	if len(fresh) == 0 {
		return nil
	}
	err := j.ready()
	if err == nil {
		err = j.append(fresh)
	}
	if err != nil {
		return fmt.Errorf("note '%s' in the session: %w", fresh[0].path, explain(err))
	}
	return nil
}

// acceptable tells whether Recover would remove t.
func (j *journal) acceptable(t transient) error {
	switch {
	case t.kind == "" || strings.ContainsAny(string(t.kind), " \x00"):
		return fmt.Errorf("%q cannot be a kind", t.kind)
	case strings.IndexByte(t.path, 0) >= 0:
		return errors.New("the path has a NUL in it")
	}
	if _, ok := j.store.opts.RecoverTransient[t.kind]; ok {
		return nil
	}
	_, _, err := j.store.below(t.path)
	return err
}

func (j *journal) done(kind Transient, paths ...string) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	var over []int64
	for _, path := range paths {
		t := transient{kind, path}
		if at, ok := j.live[t]; ok {
			over = append(over, at)
			delete(j.live, t)
		}
	}
	if len(over) == 0 || j.ended {
		return nil
	}
	var err error
	if len(j.live) == 0 {
		if err = j.file.Truncate(0); err == nil {
			j.size = 0
		}
	} else {
		for _, at := range over {
			_, werr := j.file.WriteAt([]byte{'-'}, at)
			err = errors.Join(err, werr)
		}
	}
	if err != nil {
		return fmt.Errorf("take '%s' from the session: %w", paths[0], explain(err))
	}
	return nil
}

// append adds records. Those that are cut short, for want of room, are written over by the
// next ones: none of them counts, and what has no end is no record.
func (j *journal) append(ts []transient) error {
	var records []byte
	at := make([]int64, len(ts))
	for i, t := range ts {
		at[i] = j.size + int64(len(records))
		records = append(records, t.record('+')...)
	}
	if _, err := j.file.WriteAt(records, j.size); err != nil {
		return errors.Join(err, j.file.Truncate(j.size))
	}
	for i, t := range ts {
		j.live[t] = at[i]
	}
	j.size += int64(len(records))
	return nil
}

// ready sees that there is a session file, and that it is not too long.
func (j *journal) ready() error {
	if j.file != nil && j.size < rotateAt {
		return nil
	}
	f, err := j.create()
	if err != nil {
		return err
	}
	var records []byte
	live := make(map[transient]int64, len(j.live))
	for _, t := range inOrder(j.live) {
		live[t] = int64(len(records))
		records = append(records, t.record('+')...)
	}
	old := j.file
	if len(records) > 0 {
		if _, err := f.WriteAt(records, 0); err != nil {
			return errors.Join(err, os.Remove(f.Name()), f.Close())
		}
	}
	j.file, j.size, j.live = f, int64(len(records)), live
	if old != nil {
		// Both files say the same until here, so it does not matter when we die.
		return errors.Join(os.Remove(old.Name()), old.Close())
	}
	return nil
}

// create makes a session file and locks it.
func (j *journal) create() (*os.File, error) {
	dir := j.store.layout.sessions()
	if err := makeDirs(dir, 0o700); err != nil {
		return nil, err
	}
	for {
		name := filepath.Join(dir, strconv.Itoa(os.Getpid())+"-"+strings.ToLower(rand.Text()[:16]))
		f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_EXCL|openNoFollow, 0o600)
		if err != nil {
			return nil, err
		}
		// Somebody who looks for dead sessions may have been faster with the lock.
		if err := flock(f, lockExclusive); err != nil {
			return nil, errors.Join(err, os.Remove(name), f.Close())
		}
		linked, err := isLinked(f)
		if err != nil {
			return nil, errors.Join(err, f.Close())
		}
		if linked {
			return f, nil
		}
		f.Close()
	}
}

// close ends the session. If something that was noted is still there, the file
// stays for whoever opens the store next.
func (j *journal) close() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.ended = true
	if j.file == nil {
		return nil
	}
	var err error
	if len(j.live) == 0 {
		err = os.Remove(j.file.Name())
	} else {
		left := slices.SortedFunc(maps.Keys(j.live), func(a, b transient) int { return strings.Compare(a.path, b.path) })
		err = fmt.Errorf("%d things that were noted in the session are not done, among them '%s'", len(left), left[0].path)
	}
	return errors.Join(err, j.file.Close())
}

// parseSession gives what a session file says is there. A record without its end
// was being written when the process died, so nothing was done about it yet.
func parseSession(data []byte) ([]transient, error) {
	live := make(map[transient]int)
	for i := 0; len(data) > 0; i++ {
		record, rest, complete := bytes.Cut(data, []byte{0})
		if !complete {
			break
		}
		data = rest
		kind, path, ok := strings.Cut(string(record), " ")
		if !ok || kind == "" {
			return nil, fmt.Errorf("record %d is corrupt", i)
		}
		t := transient{Transient(kind[1:]), path}
		switch kind[0] {
		case '+':
			live[t] = i
		case '-':
			delete(live, t)
		default:
			return nil, fmt.Errorf("record %d is corrupt", i)
		}
	}
	return inOrder(live), nil
}

// inOrder gives things in the order in which they were noted.
func inOrder[N cmp.Ordered](places map[transient]N) []transient {
	return slices.SortedFunc(maps.Keys(places), func(a, b transient) int { return cmp.Compare(places[a], places[b]) })
}
