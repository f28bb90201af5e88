package local

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"
	"time"

	"github.com/kilnbuild/kiln/internal/dirfd"
	"github.com/kilnbuild/kiln/internal/rmtree"
	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/nar"
	"github.com/kilnbuild/kiln/store"
)

// What is registered in one transaction, and synced at once.
const (
	batchObjects = 256
	batchBytes   = 256 << 20 // of archives: what is unpacked again after a failure
)

// smallArchive is the size in bytes up to which an archive is held in memory, which is
// cheaper than to have its writer and its reader take turns.
const smallArchive = 64 << 10

// AddMany implements store.BatchSink. Objects are registered some hundreds at a time. An
// object that is valid already is not asked for. After an error, those stay that were
// complete. It does not replace anything: with opts.Repair the error says so.
func (s *Store) AddMany(ctx context.Context, infos []*nix.PathInfo, archive func(ctx context.Context, i int, w io.Writer) error, opts store.AddOptions) error {
	if opts.Repair {
		return fmt.Errorf("replace many objects at a time: %w", errors.ErrUnsupported)
	}
	if err := s.changes(); err != nil {
		return err
	}
	paths := make([]nix.StorePath, len(infos))
	for i, info := range infos {
		if err := s.checkClaims(info, opts); err != nil {
			return s.addError(info, err)
		}
		paths[i] = info.Path
	}
	if err := s.roots.add(ctx, paths); err != nil {
		return err
	}
	valid, err := s.validSet(ctx, paths)
	if err != nil {
		return err
	}
	// A batch is registered while the next one is received, which does not use the
	// database: what one connection writes, another one has to read anew.
	settled := make(chan error, 1)
	settled <- nil
	spares, err := s.spareLocks()
	if err != nil {
		return err
	}
	defer spares.close()
	for begin := 0; begin < len(infos); {
		end, size := begin, int64(0)
		for end < len(infos) && end-begin < batchObjects && size < batchBytes {
			size += infos[end].NARSize
			end++
		}
		arrivals, failure := s.receiveMany(ctx, infos[begin:end], valid, func(ctx context.Context, i int, w io.Writer) error { return archive(ctx, begin+i, w) })
		if err := <-settled; err != nil {
			return errors.Join(err, discardAll(arrivals))
		}
		go func() { settled <- s.settleAll(ctx, arrivals, spares) }()
		if failure != nil {
			return errors.Join(failure, <-settled)
		}
		begin = end
	}
	return <-settled
}

// An arrival is an object that was received.
type arrival struct {
	info *nix.PathInfo
	tree *received
	err  error
}

func discardAll(arrivals []arrival) error {
	var errs []error
	for _, a := range arrivals {
		if a.tree != nil {
			errs = append(errs, a.tree.discard())
		}
	}
	return errors.Join(errs...)
}

// receiveMany receives objects that are not valid. It gives those that are what they
// should be; after an error, those that came before it.
func (s *Store) receiveMany(ctx context.Context, infos []*nix.PathInfo, valid map[nix.StorePath]bool, archive func(ctx context.Context, i int, w io.Writer) error) ([]arrival, error) {
	r := &receiver{store: s, infos: infos, valid: valid, archive: archive, arrivals: make([]arrival, 0, len(infos))}
	var workers sync.WaitGroup
	for range min(unpackers, runtime.GOMAXPROCS(0)) {
		workers.Go(func() {
			for r.receive(ctx) {
			}
		})
	}
	workers.Wait()
	arrivals, failure := r.arrivals, r.failure
	complete := 0
	for ; complete < len(arrivals); complete++ {
		if a := &arrivals[complete]; a.err != nil {
			failure = s.addError(a.info, a.err)
			break
		}
	}
	if context.Cause(ctx) != nil {
		complete = 0 // nobody wants to wait for it
	}
	return arrivals[:complete], errors.Join(failure, discardAll(arrivals[complete:]))
}

// unpackers is how many small archives are unpacked at once. More do not help: they make
// files on one file system.
const unpackers = 4

// A receiver is what the goroutines share that receive the objects of a batch. One of them
// reads an archive at a time, in the order of the objects, while others unpack those that
// they have read: to hand archives from one to the other would take longer.
type receiver struct {
	store   *Store
	infos   []*nix.PathInfo
	valid   map[nix.StorePath]bool
	archive func(ctx context.Context, i int, w io.Writer) error

	mu       sync.Mutex
	next     int
	arrivals []arrival // has room for all: what was taken from it stays where it is
	failure  error     // of reading what is in memory
	failed   bool
}

// receive receives the next object, and tells whether there may be more.
func (r *receiver) receive(ctx context.Context) bool {
	a, held, more := r.read(ctx)
	if held == nil {
		return more
	}
	a.tree, a.err = r.store.receiveHeld(ctx, held.text, a.info)
	giveBlock(held.block)
	if a.err != nil {
		r.mu.Lock()
		r.failed = true
		r.mu.Unlock()
		return false
	}
	return true
}

// read reads the next archive: a small one into memory, of what is to be unpacked without
// others waiting for it. One that is not small is received at once.
func (r *receiver) read(ctx context.Context) (a *arrival, held *heldArchive, more bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for r.next < len(r.infos) && r.valid[r.infos[r.next].Path] {
		r.next++
	}
	if r.failed || r.next == len(r.infos) {
		return nil, nil, false
	}
	i, info := r.next, r.infos[r.next]
	r.next++
	write := func(w io.Writer) error { return r.archive(ctx, i, w) }
	if info.NARSize <= 0 || info.NARSize > smallArchive {
		tree, err := r.store.produce(ctx, write)
		if err == nil {
			err = tree.check(info)
		}
		r.arrivals = append(r.arrivals, arrival{info, tree, err})
		r.failed = err != nil
		return nil, nil, err == nil
	}
	block := takeBlock()
	held = &heldArchive{block: block, text: *block, most: int(info.NARSize)}
	if r.failure = write(held); r.failure != nil {
		giveBlock(block)
		r.failed = true
		return nil, nil, false
	}
	r.arrivals = append(r.arrivals, arrival{info: info})
	return &r.arrivals[len(r.arrivals)-1], held, true
}

// A heldArchive is an archive in memory. It takes no more than it was told of.
type heldArchive struct {
	block *[]byte
	text  []byte // in block
	most  int
}

func (h *heldArchive) Write(p []byte) (int, error) {
	if len(h.text)+len(p) > h.most {
		return 0, fmt.Errorf("the archive has more than the %d bytes that it should have", h.most)
	}
	h.text = append(h.text, p...)
	return len(p), nil
}

var errBehind = errors.New("there is something behind the archive")

// receiveHeld receives and checks an archive that is in memory, with nothing behind it. An
// error leaves what was received for whoever calls it to discard.
func (s *Store) receiveHeld(ctx context.Context, text []byte, info *nix.PathInfo) (*received, error) {
	held := bytes.NewReader(text)
	t, err := s.receive(ctx, held)
	switch {
	case err != nil:
		return nil, err
	case held.Len() > 0:
		return t, errBehind
	case !info.CA.IsZero() && (info.CA.Method == nix.Text || info.CA.Method == nix.Flat) && t.narHash == info.NARHash:
		// The file need not be read once more.
		content, plain, err := plainFile(text)
		if err == nil && plain && nix.HashBytes(info.CA.Hash.Algorithm(), content) == info.CA.Hash {
			believed := *info
			believed.CA = nix.ContentAddress{}
			return t, t.check(&believed)
		}
	}
	return t, t.check(info)
}

// plainFile gives the content of an archive that is one file, and whether that is not
// executable.
func plainFile(archive []byte) (content []byte, plain bool, err error) {
	r := nar.NewReader(bytes.NewReader(archive), nar.Limits{})
	h, err := r.Next()
	if err != nil || h.Type != nar.Regular || h.Executable {
		return nil, false, err
	}
	content, err = io.ReadAll(r)
	return content, err == nil, err
}

func (s *Store) addError(info *nix.PathInfo, err error) error {
	return fmt.Errorf("add '%s': %w", s.opts.StoreDir.Join(info.Path), err)
}

// validSet gives those of paths that are valid.
func (s *Store) validSet(ctx context.Context, paths []nix.StorePath) (map[nix.StorePath]bool, error) {
	valid, err := s.ValidPaths(ctx, paths)
	set := make(map[nix.StorePath]bool, len(valid))
	for _, p := range valid {
		set[p] = true
	}
	return set, err
}

// settleAll is settle for many objects, each of which comes after those that it refers
// to.
func (s *Store) settleAll(ctx context.Context, arrivals []arrival, spares *spareLocks) error {
	for len(arrivals) > 0 {
		locks, n, err := s.lockFree(ctx, arrivals, spares)
		if err == nil {
			err = s.settleLocked(ctx, arrivals[:n])
			locks.Release()
		}
		if err != nil {
			return errors.Join(err, discardAll(arrivals[n:]))
		}
		arrivals = arrivals[n:]
	}
	return nil
}

// lockFree locks the first object, for which it waits, and as many of those behind it as
// nobody has locked: who holds locks and waits for another one may wait for himself.
func (s *Store) lockFree(ctx context.Context, arrivals []arrival, spares *spareLocks) (*PathLocks, int, error) {
	held, err := s.LockPaths(ctx, []nix.StorePath{arrivals[0].info.Path}, nil)
	if err != nil {
		return nil, 0, err
	}
	names := make([]string, len(arrivals))
	for i, a := range arrivals {
		names[i] = s.RealPath(a.info.Path) + lockSuffix
	}
	n := 1
	if err = s.journal.note(transientLock, names[1:]...); err == nil {
		for ; n < len(names); n++ {
			var l *pathLock
			if l, err = s.tryLock(names[n], spares); err != nil || l == nil {
				break
			}
			held.locks = append(held.locks, l)
		}
		err = errors.Join(err, s.journal.done(transientLock, names[n:]...))
	}
	if err != nil {
		held.Release()
		return nil, 0, fmt.Errorf("lock '%s': %w", s.opts.StoreDir.Join(arrivals[min(n, len(arrivals)-1)].info.Path), err)
	}
	return held, n, nil
}

// settleLocked makes received trees valid objects. Their locks are held.
func (s *Store) settleLocked(ctx context.Context, arrivals []arrival) (err error) {
	placed := 0
	defer func() {
		err = errors.Join(err, discardAll(arrivals[placed:]))
	}()
	paths := make([]nix.StorePath, len(arrivals))
	for i, a := range arrivals {
		paths[i] = a.info.Path
	}
	valid, err := s.validSet(ctx, paths)
	if err != nil {
		return err
	}
	into, _, err := dirfd.OpenParent(s.RealPath(paths[0]))
	if err != nil {
		return explain(err)
	}
	defer dirfd.Close(into)
	now := time.Unix(time.Now().Unix(), 0) // as the database keeps it
	objects := make([]Registration, 0, len(arrivals))
	for _, a := range arrivals {
		if valid[a.info.Path] {
			// Somebody else was faster.
			err = a.tree.discard()
		} else if err = s.placeReceived(ctx, a.tree, into, a.info.Path); err == nil {
			a.tree.room.leave()
			object := Registration{Info: *a.info}
			object.Info.NARSize = a.tree.narSize
			if object.Info.RegistrationTime.IsZero() {
				object.Info.RegistrationTime = now
			}
			objects = append(objects, object)
		}
		if err != nil {
			break
		}
		placed++
	}
	if err == nil {
		err = s.Register(ctx, objects)
	}
	if err != nil {
		// What is not valid is not to be seen.
		for _, o := range objects {
			err = errors.Join(err, s.removeBelow(s.RealPath(o.Info.Path), rmtree.RemoveAt))
		}
	}
	return err
}
