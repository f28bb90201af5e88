package rpc

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	kilnv1 "github.com/kilnbuild/kiln/api/kiln/v1"
	"github.com/kilnbuild/kiln/nix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// builds are all builds that are known, with their records in a directory: ID.build is the
// digest of the request and the BuildInfo, ID.ended the same at the end, ID.events the
// journal.
type builds struct {
	dir       string
	lock      *os.File
	maxActive int
	maxKept   int
	retention time.Duration

	mu       sync.Mutex
	byID     map[string]*build
	active   int // not ended
	draining bool
	idle     chan struct{} // closed when active falls to 0, and replaced
}

const (
	infoExt   = ".build"
	endedExt  = ".ended"
	eventsExt = ".events"
	tmpExt    = ".new"
)

// openBuilds reads the records that earlier processes have left. Builds that had not ended
// are interrupted.
func openBuilds(cfg *Config) (*builds, error) {
	bs := &builds{
		dir: cfg.Dir, maxActive: cfg.MaxBuilds, maxKept: cfg.MaxKept, retention: cfg.Retention,
		byID: make(map[string]*build), idle: make(chan struct{}),
	}
	if err := os.MkdirAll(bs.dir, 0o700); err != nil {
		return nil, fmt.Errorf("open the records of builds: %w", err)
	}
	var err error
	if bs.lock, err = lockDir(bs.dir); err != nil {
		return nil, fmt.Errorf("open the records of builds: %w", err)
	}
	entries, err := os.ReadDir(bs.dir)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open the records of builds: %w", err), bs.lock.Close())
	}
	for _, e := range entries {
		id, ok := strings.CutSuffix(e.Name(), infoExt)
		if !ok {
			if strings.HasSuffix(e.Name(), tmpExt) {
				os.Remove(filepath.Join(bs.dir, e.Name()))
			}
			continue
		}
		if err := bs.load(id); err != nil {
			// What cannot be read is of no use to anybody.
			cfg.Warn(fmt.Errorf("forget the record of build '%s': %w", id, err))
			bs.remove(id)
		}
	}
	for _, e := range entries {
		if id, ok := strings.CutSuffix(e.Name(), eventsExt); ok && bs.byID[id] == nil {
			bs.remove(id)
		}
	}
	return bs, nil
}

func (bs *builds) file(id, ext string) string { return filepath.Join(bs.dir, id+ext) }

func (bs *builds) remove(id string) {
	os.Remove(bs.file(id, infoExt))
	os.Remove(bs.file(id, endedExt))
	os.Remove(bs.file(id, eventsExt))
}

// maxRecord bounds the record of a build in bytes.
const maxRecord = 256 << 20

// read reads the record of a build.
func (bs *builds) read(id string) (digest []byte, info *kilnv1.BuildInfo, err error) {
	name := bs.file(id, endedExt)
	st, err := os.Stat(name)
	if errors.Is(err, os.ErrNotExist) {
		name = bs.file(id, infoExt)
		st, err = os.Stat(name)
	}
	if err != nil {
		return nil, nil, err
	}
	if st.Size() > maxRecord {
		return nil, nil, fmt.Errorf("it has %d bytes", st.Size())
	}
	data, err := os.ReadFile(name)
	if err != nil {
		return nil, nil, err
	}
	if len(data) < sha256.Size {
		return nil, nil, errors.New("it is too short")
	}
	info = &kilnv1.BuildInfo{}
	if err := proto.Unmarshal(data[sha256.Size:], info); err != nil {
		return nil, nil, err
	}
	if info.Id != id {
		return nil, nil, fmt.Errorf("it is that of '%s'", info.Id)
	}
	return data[:sha256.Size], info, nil
}

// load takes over a build of an earlier process.
func (bs *builds) load(id string) error {
	if err := checkID(id); err != nil {
		return err
	}
	digest, info, err := bs.read(id)
	if err != nil {
		return err
	}
	b := &build{id: id, digest: digest, owner: info.Owner, created: timeOf(info.Created), info: info, journal: newJournal(bs.file(id, eventsExt), id), done: make(chan struct{})}
	close(b.done)
	if err := b.journal.recover(); err != nil {
		return err
	}
	if info.Ended == nil {
		info.State, info.Ended, info.Activity = kilnv1.BuildState_BUILD_STATE_INTERRUPTED, timestamppb.Now(), ""
		info.Failure, info.Error = failure(nix.Failure{Kind: nix.FailureInterrupted}), "the executor ended while the build was not finished"
		info.Events, info.LogBytes = b.journal.events+1, b.journal.logBytes
		if err := bs.write(b, info); err != nil {
			return err
		}
	}
	if b.journal.events < info.Events {
		b.journal.append(&kilnv1.BuildEvent{Event: &kilnv1.BuildEvent_Ended{Ended: info}})
	}
	b.journal.over = true
	b.info = proto.CloneOf(info)
	b.info.Results = nil
	bs.byID[id] = b
	return nil
}

// write puts the record of a build on disk. No file replaces another: file systems make
// that wait for the disk.
func (bs *builds) write(b *build, info *kilnv1.BuildInfo) error {
	data, err := proto.MarshalOptions{}.MarshalAppend(slices.Clone(b.digest), info)
	if err != nil {
		return err
	}
	tmp := bs.file(b.id, tmpExt)
	if err := os.WriteFile(tmp, data, 0o600); err != nil {
		return err
	}
	ext := infoExt
	if info.Ended != nil {
		ext = endedExt
	}
	return os.Rename(tmp, bs.file(b.id, ext))
}

// add joins the build of an id, or makes it. joined says that it was there.
func (bs *builds) add(id string, d []byte, owner string, m *kilnv1.BuildRequest) (b *build, joined bool, err error) {
	bs.mu.Lock()
	defer bs.mu.Unlock()
	if b := bs.byID[id]; b != nil {
		return b, true, b.join(d)
	}
	switch {
	case bs.draining:
		return nil, false, ErrDraining
	case bs.active >= bs.maxActive:
		return nil, false, status.Errorf(codes.ResourceExhausted, "%d builds wait or run already; try again later, or on another machine", bs.active)
	}
	b = bs.make(id, d, owner)
	b.info.Labels, b.info.Detached = m.Labels, m.Detached
	if m.Detached {
		b.attached++
	}
	return b, false, nil
}

// make makes a build with one caller. The caller holds bs.mu.
func (bs *builds) make(id string, d []byte, owner string) *build {
	now := time.Now()
	b := &build{
		id: id, digest: d, owner: owner, created: now, before: bs.active, journal: newJournal(bs.file(id, eventsExt), id), done: make(chan struct{}), attached: 1, holders: 2,
		info: &kilnv1.BuildInfo{Id: id, State: kilnv1.BuildState_BUILD_STATE_QUEUED, Owner: owner, Created: timestamppb.New(now)},
	}
	bs.byID[id] = b
	bs.active++
	return b
}

// keep begins the record of a build.
func (bs *builds) keep(b *build) error {
	b.journal.append(&kilnv1.BuildEvent{Event: &kilnv1.BuildEvent_Queued{Queued: &kilnv1.Queued{Before: uint32(b.before)}}})
	b.mu.Lock()
	info := proto.CloneOf(b.info)
	b.mu.Unlock()
	return bs.write(b, info)
}

// drop forgets a build that came to nothing.
func (bs *builds) drop(b *build) {
	bs.mu.Lock()
	defer bs.mu.Unlock()
	delete(bs.byID, b.id)
	bs.remove(b.id)
	bs.endOne()
}

// ended says that a build has ended.
func (bs *builds) ended() {
	bs.mu.Lock()
	defer bs.mu.Unlock()
	bs.endOne()
}

func (bs *builds) endOne() {
	if bs.active--; bs.active == 0 {
		close(bs.idle)
		bs.idle = make(chan struct{})
	}
}

// drain says whether builds are turned away.
func (bs *builds) drain(yes bool) {
	bs.mu.Lock()
	defer bs.mu.Unlock()
	bs.draining = yes
}

func (bs *builds) drains() bool {
	bs.mu.Lock()
	defer bs.mu.Unlock()
	return bs.draining
}

// awaitIdle waits until all builds have ended.
func (bs *builds) awaitIdle(ctx context.Context) error {
	for {
		bs.mu.Lock()
		active, idle := bs.active, bs.idle
		bs.mu.Unlock()
		if active == 0 {
			return nil
		}
		select {
		case <-idle:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// find gives a build that is known.
func (bs *builds) find(id string) (*build, error) {
	if err := checkID(id); err != nil {
		return nil, err
	}
	bs.mu.Lock()
	defer bs.mu.Unlock()
	if b := bs.byID[id]; b != nil {
		return b, nil
	}
	return nil, status.Errorf(codes.NotFound, "no build '%s' is known: there never was one, or its record was kept for long enough", id)
}

// all gives the builds, the latest first.
func (bs *builds) all() []*build {
	bs.mu.Lock()
	list := make([]*build, 0, len(bs.byID))
	for _, b := range bs.byID {
		list = append(list, b)
	}
	bs.mu.Unlock()
	slices.SortFunc(list, func(a, b *build) int { return compareBuilds(a, b.created, b.id) })
	return list
}

// compareBuilds orders a build against one that was made at a time and has an id: later
// ones come first.
func compareBuilds(a *build, created time.Time, id string) int {
	return cmp.Or(created.Compare(a.created), cmp.Compare(a.id, id))
}

// sweep forgets builds that have ended long ago, or that are too many. It gives the
// sandboxes that were kept of them.
func (bs *builds) sweep(now time.Time) (kept []*kilnv1.KeptSandbox) {
	count := 0
	for _, b := range bs.all() {
		b.mu.Lock()
		ended, over := timeOf(b.info.Ended), b.cancel == nil && b.info.Ended != nil
		sandboxes := b.info.KeptSandboxes
		b.mu.Unlock()
		if !over {
			continue
		}
		if count++; count <= bs.maxKept && now.Sub(ended) < bs.retention {
			continue
		}
		bs.mu.Lock()
		delete(bs.byID, b.id)
		bs.remove(b.id)
		bs.mu.Unlock()
		kept = append(kept, sandboxes...)
	}
	return kept
}

// counts gives how many builds run and how many wait.
func (bs *builds) counts() (running, queued uint32) {
	for _, b := range bs.all() {
		switch b.state() {
		case kilnv1.BuildState_BUILD_STATE_RUNNING:
			running++
		case kilnv1.BuildState_BUILD_STATE_QUEUED:
			queued++
		}
	}
	return running, queued
}
