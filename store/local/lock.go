package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/kilnbuild/kiln/nix"
)

// lockSuffix is what the name of a lock file has more than that of the object.
const lockSuffix = ".lock"

// PathLocks are locks on objects. They keep others, processes of Nix included,
// from making these objects.
type PathLocks struct {
	locks []*pathLock
}

// Release gives the locks back. Further calls do nothing.
func (l *PathLocks) Release() {
	if len(l.locks) == 0 {
		return
	}
	st, names := l.locks[0].store, make([]string, 0, len(l.locks))
	for _, lock := range slices.Backward(l.locks) {
		lock.remove()
		names = append(names, lock.name)
	}
	if err := st.journal.done(transientLock, names...); err != nil {
		st.opts.Warn(err)
	}
	for _, lock := range slices.Backward(l.locks) {
		lock.unlock()
	}
	l.locks = nil
}

// pathLock is one lock. Its file is there as long as somebody holds or wants it.
type pathLock struct {
	store  *Store
	name   string
	file   *os.File
	unlock func() // within the process
	noted  bool
	spares *spareLocks // get the file when it is released; nil for nobody
}

// LockPaths locks objects, which need not exist, and waits for others who have
// them locked. onWait, if not nil, is called once for each object that is waited
// for, with its real path. The caller releases the locks.
//
// The objects become temporary roots: a collector that has never heard of an
// object would take its lock file for garbage.
//
// Locks are taken in the order of the paths, so that two who want several never
// wait for each other. Who already holds some and asks for more has to see to
// that for himself.
func (s *Store) LockPaths(ctx context.Context, paths []nix.StorePath, onWait func(path string)) (*PathLocks, error) {
	if err := s.changes(); err != nil {
		return nil, err
	}
	if err := s.roots.add(ctx, paths); err != nil {
		return nil, err
	}
	sorted := slices.Clone(paths)
	slices.Sort(sorted)
	held := &PathLocks{}
	for _, p := range slices.Compact(sorted) {
		l, err := s.lock(ctx, s.RealPath(p)+lockSuffix, onWait)
		if err != nil {
			held.Release()
			return nil, fmt.Errorf("lock '%s': %w", s.opts.StoreDir.Join(p), err)
		}
		held.locks = append(held.locks, l)
	}
	return held, nil
}

// tryLock takes one lock, which is noted in the session, if nobody has it, and gives nil
// otherwise. What is noted stays so. spares, which may be nil, have files for it.
func (s *Store) tryLock(name string, spares *spareLocks) (*pathLock, error) {
	unlock, ok := s.locks.TryLock(name)
	if !ok {
		return nil, nil
	}
	if f := spares.take(name); f != nil {
		return &pathLock{store: s, name: name, file: f, unlock: unlock, noted: true, spares: spares}, nil
	}
	f, err := openLock(name)
	if err != nil {
		unlock()
		return nil, explain(err)
	}
	got, err := tryFlock(f, lockExclusive)
	if got {
		got, err = isLinked(f)
	}
	if err != nil || !got {
		// Who holds it removes the file.
		f.Close()
		unlock()
		return nil, err
	}
	return &pathLock{store: s, name: name, file: f, unlock: unlock, noted: true, spares: spares}, nil
}

// lock takes one lock.
func (s *Store) lock(ctx context.Context, name string, onWait func(string)) (*pathLock, error) {
	waiting := func() {
		if onWait != nil {
			onWait(strings.TrimSuffix(name, lockSuffix))
			onWait = nil
		}
	}
	unlock, ok := s.locks.TryLock(name)
	if !ok {
		waiting()
		var err error
		if unlock, err = s.locks.Lock(ctx, name); err != nil {
			return nil, err
		}
	}
	l := &pathLock{store: s, name: name, unlock: unlock}
	if err := s.journal.note(transientLock, name); err != nil {
		unlock()
		return nil, err
	}
	l.noted = true
	for {
		f, err := openLock(name)
		if err != nil {
			l.forget()
			return nil, explain(err)
		}
		got, err := tryFlock(f, lockExclusive)
		if err == nil && !got {
			waiting()
			err = pollFlock(ctx, f, lockExclusive)
		}
		linked := false
		if err == nil {
			linked, err = isLinked(f)
		}
		if err != nil {
			// Who holds it removes the file.
			f.Close()
			l.forget()
			return nil, err
		}
		if linked {
			l.file = f
			return l, nil
		}
		f.Close()
	}
}

// release removes the lock file and gives the lock back. Those who have opened
// the file meanwhile learn from what is in it that it is not the lock any more.
func (l *pathLock) release() {
	l.remove()
	l.forget()
}

// remove is release up to where the process forgets the lock.
func (l *pathLock) remove() {
	if l.spares.keep(l) {
		return
	}
	if err := os.Remove(l.name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		l.store.opts.Warn(fmt.Errorf("release lock: %w", err))
	}
	l.end()
}

// end tells those who have opened the file that it is not the lock any more.
func (l *pathLock) end() {
	if _, err := l.file.WriteString("d"); err != nil && !isFull(err) {
		l.store.opts.Warn(fmt.Errorf("release lock: %w", err))
	}
	l.file.Close()
}

func (l *pathLock) forget() {
	if l.noted {
		if err := l.store.journal.done(transientLock, l.name); err != nil {
			l.store.opts.Warn(err)
		}
	}
	l.unlock()
}

// seize takes a lock of a dead session, if that needs no waiting. A lock file
// that is missing is made: what the lock protects is to be removed under it.
func (s *Store) seize(name string) (*pathLock, bool, error) {
	root, _, err := s.below(name)
	if err != nil || root != s.layout.store || strings.Contains(name[len(root)+1:], "/") || !strings.HasSuffix(name, lockSuffix) {
		return nil, false, fmt.Errorf("'%s' is no lock of this store", name)
	}
	unlock, ok := s.locks.TryLock(name)
	if !ok {
		return nil, false, nil
	}
	f, err := openLock(name)
	if err != nil {
		unlock()
		return nil, false, err
	}
	got, err := tryFlock(f, lockExclusive)
	if got {
		got, err = isLinked(f)
	}
	if !got || err != nil {
		f.Close()
		unlock()
		return nil, false, err
	}
	return &pathLock{store: s, name: name, file: f, unlock: unlock}, true, nil
}

// pollFlock waits for a lock until ctx ends. The kernel can wait by itself, but
// not until then.
func pollFlock(ctx context.Context, f *os.File, how int) error {
	const longest = 50 * time.Millisecond
	for delay := 250 * time.Microsecond; ; delay = min(2*delay, longest) {
		if got, err := tryFlock(f, how); got || err != nil {
			return err
		}
		timer := time.NewTimer(delay)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return fmt.Errorf("wait for '%s': %w", f.Name(), context.Cause(ctx))
		}
	}
}
