package store

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"

	"github.com/kilnbuild/kiln/internal/bufpipe"
	"github.com/kilnbuild/kiln/nix"
)

// DefaultCopyJobs is CopyOptions.Jobs if that is zero.
const DefaultCopyJobs = 8

// pipeSize is the buffer at each end of a copied archive, in bytes: archives are
// made and read in pieces of some dozen bytes.
const pipeSize = 64 << 10

// CopyOptions are the choices when copying. The zero value copies what is missing,
// and believes the source.
type CopyOptions struct {
	// Repair copies objects that the target has already, and replaces them.
	Repair bool
	// CheckSignatures is AddOptions.CheckSignatures.
	CheckSignatures bool
	// Substitute has the target first fetch by itself what it can, if it is a
	// SubstitutingSource.
	Substitute bool
	// Jobs is how many objects are copied at once; 0 stands for DefaultCopyJobs.
	Jobs int
	// From is what the source is called in events and errors; "" for nothing better
	// than "the source".
	From string
	// To is what the target is called in errors; "" for "the target".
	To string
	// Log is told of each object that is copied, as of a goal that is fetched. It may
	// be nil.
	Log nix.LogSink
}

// A SubstitutingSource can fetch objects by itself.
type SubstitutingSource interface {
	// SubstituteValidPaths is BatchSource.ValidPaths, after those paths were fetched
	// that can be. What cannot is not among them, and no error.
	SubstituteValidPaths(ctx context.Context, paths []nix.StorePath) ([]nix.StorePath, error)
}

// A BatchSink takes many objects for the price of one.
type BatchSink interface {
	// AddMany is Sink.Add for each of infos, in their order: each comes after those
	// it refers to. archive writes the archive of infos[i]; its error ends
	// everything. Objects that are valid by then may stay. An error that wraps
	// errors.ErrUnsupported says that nothing was done, and that they have to be
	// added one by one.
	AddMany(ctx context.Context, infos []*nix.PathInfo, archive func(ctx context.Context, i int, w io.Writer) error, opts AddOptions) error
}

// A CopyError says at which end the copying of an object failed. It wraps the cause.
type CopyError struct {
	Path nix.StorePath
	// Reading is set if it could not be read, and not set if it could not be added.
	Reading bool
	End     string // what that end is called
	Err     error
}

func (e *CopyError) Error() string {
	verb := "write it to"
	if e.Reading {
		verb = "read it from"
	}
	return fmt.Sprintf("copy '%s': %s %s: %v", e.Path, verb, e.End, e.Err)
}

func (e *CopyError) Unwrap() error { return e.Err }

// CopyClosure copies objects with everything that can be reached from them by
// references, as Copy does.
func CopyClosure(ctx context.Context, from Source, to Sink, roots []nix.StorePath, opts CopyOptions) error {
	c := newCopier(from, to, opts)
	infos, err := ClosureInfos(ctx, from, roots...)
	if err != nil {
		return fmt.Errorf("read from %s: %w", c.opts.From, err)
	}
	paths := make([]nix.StorePath, 0, len(infos))
	for p := range infos {
		paths = append(paths, p)
	}
	missing, err := c.missing(ctx, paths)
	if err != nil {
		return err
	}
	wanted := make([]*nix.PathInfo, len(missing))
	for i, p := range missing {
		wanted[i] = infos[p]
	}
	return c.copy(ctx, wanted)
}

// Copy copies objects from one store to another, those that the target has already
// left aside: it is asked once for all, if it is a BatchSource. An object is copied
// after those that it refers to, which the target must have or be given, and beside
// others. Archives go straight from one end to the other: memory does not grow with
// their size.
//
// The first failure stops everything; what was copied by then stays, so that doing
// it again goes on from there. Failures of one object are *CopyError.
func Copy(ctx context.Context, from Source, to Sink, paths []nix.StorePath, opts CopyOptions) error {
	c := newCopier(from, to, opts)
	missing, err := c.missing(ctx, paths)
	if err != nil {
		return err
	}
	infos, err := pathInfos(ctx, from, missing)
	if err != nil {
		return fmt.Errorf("read from %s: %w", c.opts.From, err)
	}
	return c.copy(ctx, infos)
}

type copier struct {
	from Source
	to   Sink
	opts CopyOptions
	add  AddOptions
}

func newCopier(from Source, to Sink, opts CopyOptions) *copier {
	if opts.Jobs <= 0 {
		opts.Jobs = DefaultCopyJobs
	}
	if opts.From == "" {
		opts.From = "the source"
	}
	if opts.To == "" {
		opts.To = "the target"
	}
	return &copier{from: from, to: to, opts: opts, add: AddOptions{Repair: opts.Repair, CheckSignatures: opts.CheckSignatures}}
}

// missing gives those of paths that are to be copied, each once.
func (c *copier) missing(ctx context.Context, paths []nix.StorePath) ([]nix.StorePath, error) {
	if err := c.sameDir(); err != nil {
		return nil, err
	}
	seen := make(map[nix.StorePath]bool, len(paths))
	var once []nix.StorePath
	for _, p := range paths {
		if !seen[p] {
			seen[p] = true
			once = append(once, p)
		}
	}
	if c.opts.Repair || len(once) == 0 {
		return once, nil
	}
	valid, err := c.valid(ctx, once)
	if err != nil {
		return nil, fmt.Errorf("ask %s for what it has: %w", c.opts.To, err)
	}
	for _, p := range valid {
		delete(seen, p)
	}
	var missing []nix.StorePath
	for _, p := range once {
		if seen[p] {
			missing = append(missing, p)
		}
	}
	return missing, nil
}

// sameDir refuses to copy what would have another name where it goes.
func (c *copier) sameDir() error {
	from, ok := c.from.(Store)
	to, both := c.to.(Store)
	if ok && both && from.Dir() != to.Dir() {
		return fmt.Errorf("copy from %s to %s: the store directory of one is '%s', and of the other '%s'", c.opts.From, c.opts.To, from.Dir(), to.Dir())
	}
	return nil
}

// valid gives those of paths that the target has. One that cannot be asked has none.
func (c *copier) valid(ctx context.Context, paths []nix.StorePath) ([]nix.StorePath, error) {
	if to, ok := c.to.(SubstitutingSource); ok && c.opts.Substitute {
		return to.SubstituteValidPaths(ctx, paths)
	}
	switch to := c.to.(type) {
	case BatchSource:
		return to.ValidPaths(ctx, paths)
	case Source:
		var valid []nix.StorePath
		for _, p := range paths {
			if _, err := to.PathInfo(ctx, p); err == nil {
				valid = append(valid, p)
			} else if !errors.Is(err, ErrNotFound) {
				return nil, err
			}
		}
		return valid, nil
	}
	return nil, nil
}

func (c *copier) copy(ctx context.Context, infos []*nix.PathInfo) error {
	sorted, err := SortByReferences(infos)
	if err != nil || len(sorted) == 0 {
		return err
	}
	for i, info := range sorted {
		// What another store built is not built by the target.
		copied := *info
		copied.Ultimate = false
		sorted[i] = &copied
		c.event(nix.Event{Kind: nix.EventPlanned, Path: info.Path, Expected: uint64(max(info.NARSize, 0))})
	}
	if to, ok := c.to.(BatchSink); ok {
		err := c.addMany(ctx, to, sorted)
		if !errors.Is(err, errors.ErrUnsupported) {
			return err
		}
	}
	return c.addEach(ctx, sorted)
}

func (c *copier) event(e nix.Event) {
	if c.opts.Log != nil {
		c.opts.Log.Event(e)
	}
}

// finish tells of the end of an object.
func (c *copier) finish(p nix.StorePath, err error) {
	e := nix.Event{Kind: nix.EventFinished, Path: p, Status: nix.StatusSubstituted}
	if err != nil {
		e.Status, e.Message = nix.StatusMiscFailure, err.Error()
	}
	c.event(e)
}

// begin tells that an object is copied, and gives what its archive is written
// through so that it can be told how far it is.
func (c *copier) begin(info *nix.PathInfo, w io.Writer) io.Writer {
	expected := uint64(max(info.NARSize, 0))
	c.event(nix.Event{Kind: nix.EventFetching, Path: info.Path, Message: c.opts.From, Expected: expected})
	if c.opts.Log == nil {
		return w
	}
	return &meter{w: w, log: c.opts.Log, event: nix.Event{Kind: nix.EventTransfer, Path: info.Path, Expected: expected}}
}

// A meter tells how much was written.
type meter struct {
	w     io.Writer
	log   nix.LogSink
	event nix.Event
	told  uint64
}

func (m *meter) Write(p []byte) (int, error) {
	const step = 1 << 20 // bytes between two events
	n, err := m.w.Write(p)
	m.event.Done += uint64(n)
	if m.event.Done-m.told >= step {
		m.told = m.event.Done
		m.log.Event(m.event)
	}
	return n, err
}

// read writes the archive of an object of which the source has told.
func (c *copier) read(ctx context.Context, info *nix.PathInfo, w io.Writer) error {
	if from, ok := c.from.(KnownSource); ok {
		return from.KnownNAR(ctx, info, w)
	}
	return c.from.NAR(ctx, info.Path, w)
}

// distrust has the source look again at an object that could not be copied: what it told
// may have been wrong.
func (c *copier) distrust(info *nix.PathInfo) {
	if from, ok := c.from.(ForgetfulSource); ok {
		from.Forget(info.Path)
	}
}

// addMany has a target take all objects in one go.
func (c *copier) addMany(ctx context.Context, to BatchSink, infos []*nix.PathInfo) error {
	current := -1
	var unread error
	err := to.AddMany(ctx, infos, func(ctx context.Context, i int, w io.Writer) error {
		if current >= 0 {
			c.finish(infos[current].Path, nil)
		}
		current = i
		end := &stoppable{w: w}
		err := c.read(ctx, infos[i], c.begin(infos[i], end))
		if err != nil && !end.failed.Load() {
			unread = err
		}
		return err
	}, c.add)
	if err == nil {
		if current >= 0 {
			c.finish(infos[current].Path, nil)
		}
		return nil
	}
	if current < 0 {
		return err
	}
	c.distrust(infos[current])
	failure := &CopyError{Path: infos[current].Path, End: c.opts.To, Err: err}
	if unread != nil && context.Cause(ctx) == nil {
		failure.Reading, failure.End, failure.Err = true, c.opts.From, unread
	}
	c.finish(infos[current].Path, failure)
	return failure
}

// addEach adds objects one by one, some side by side, each after those that it
// refers to.
func (c *copier) addEach(ctx context.Context, infos []*nix.PathInfo) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	waits := make(map[nix.StorePath]int, len(infos)) // for how many others
	users := make(map[nix.StorePath][]*nix.PathInfo)
	for _, info := range infos {
		waits[info.Path] = 0
	}
	var ready []*nix.PathInfo
	for _, info := range infos {
		for _, r := range info.References {
			if _, copied := waits[r]; copied && r != info.Path {
				waits[info.Path]++
				users[r] = append(users[r], info)
			}
		}
		if waits[info.Path] == 0 {
			ready = append(ready, info)
		}
	}
	type outcome struct {
		info *nix.PathInfo
		err  error
	}
	outcomes := make(chan outcome)
	running := 0
	var failure error
	for {
		for ; running < c.opts.Jobs && len(ready) > 0 && failure == nil; running++ {
			info := ready[0]
			ready = ready[1:]
			go func() { outcomes <- outcome{info, c.one(ctx, info)} }()
		}
		if running == 0 {
			return failure
		}
		o := <-outcomes
		running--
		if o.err != nil {
			if failure == nil {
				failure = o.err
				cancel(o.err)
			}
			continue
		}
		for _, u := range users[o.info.Path] {
			if waits[u.Path]--; waits[u.Path] == 0 {
				ready = append(ready, u)
			}
		}
	}
}

// errStopped is what an end gets that goes on when the other one has ended.
var errStopped = errors.New("the other end has stopped")

// one copies one object.
func (c *copier) one(ctx context.Context, info *nix.PathInfo) (err error) {
	defer func() { c.finish(info.Path, err) }()
	if err := context.Cause(ctx); err != nil {
		return err
	}
	pr, pw := bufpipe.New()
	stop := context.AfterFunc(ctx, func() { pw.CloseWithError(context.Cause(ctx)) })
	defer stop()
	reading, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)

	end := &stoppable{w: pw}
	read := make(chan error, 1)
	go func() {
		buffered := bufio.NewWriterSize(end, pipeSize)
		err := c.read(reading, info, c.begin(info, buffered))
		if err == nil {
			err = buffered.Flush()
		}
		if end.failed.Load() {
			read <- nil // it is not the source that failed
		} else {
			read <- err // before the target gets to know
		}
		pw.CloseWithError(err)
	}()
	added := c.to.Add(ctx, info, bufio.NewReaderSize(pr, pipeSize), c.add)
	// The target says when the object is complete: what comes then is not wanted. After
	// an error of the source the target has its error too.
	pr.CloseWithError(errStopped)
	var failed error
	select {
	case failed = <-read:
	default:
		cancel(errStopped)
		<-read
	}
	if added == nil {
		return nil
	}
	c.distrust(info)
	if failed != nil && context.Cause(ctx) == nil {
		return &CopyError{Path: info.Path, Reading: true, End: c.opts.From, Err: failed}
	}
	return &CopyError{Path: info.Path, End: c.opts.To, Err: added}
}

// stoppable remembers that what it wrote to has failed.
type stoppable struct {
	w      io.Writer
	failed atomic.Bool
}

func (s *stoppable) Write(p []byte) (int, error) {
	n, err := s.w.Write(p)
	if err != nil {
		s.failed.Store(true)
	}
	return n, err
}
