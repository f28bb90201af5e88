package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/nar"
	"github.com/kilnbuild/kiln/store"
	"github.com/kilnbuild/kiln/wire/worker"
)

// What is kept of a request's objects until they are added together.
const (
	batchObjects = 256
	batchBytes   = 1 << 20
	smallArchive = 64 << 10 // bytes; what is larger is added by itself
)

func (s *session) addMultipleToStore(ctx context.Context, r *worker.AddMultipleToStore, b *body) (reply, error) {
	opts, err := s.addOptions(r.Repair, r.DontCheckSigs)
	if err != nil {
		return nil, err
	}
	many := &batch{opts: opts}
	if !r.Repair {
		many.sink, _ = s.store.(store.BatchSink)
	}
	objects := worker.NewObjectReader(b, s.dir, s.cfg.Limits.Wire)
	defer objects.Release()
	err = s.addObjects(ctx, objects, many)
	// What came before an error stays, as with a daemon that adds them one by one.
	return nothing, errors.Join(err, many.flush(ctx), many.wait())
}

func (s *session) addObjects(ctx context.Context, objects *worker.ObjectReader, many *batch) error {
	for {
		info, archive, err := objects.Next()
		if err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		info.Ultimate = false
		if many.takes(info) {
			err = many.take(ctx, info, archive)
		} else if err = errors.Join(many.flush(ctx), many.wait()); err == nil {
			err = s.store.Add(ctx, info, archive, many.opts)
		}
		if err != nil {
			return err
		}
	}
}

// A batch is small objects that are added together, which costs a store little more than
// to add one. While it is added, the next one is read.
type batch struct {
	sink store.BatchSink // nil for a store that takes them one by one
	opts store.AddOptions

	infos    []*nix.PathInfo
	archives bytes.Buffer // one behind the other
	adding   chan error   // of the batch before; nil for none
}

// takes tells whether an object may wait for others.
func (b *batch) takes(info *nix.PathInfo) bool {
	return b.sink != nil && info.NARSize > 0 && info.NARSize <= smallArchive
}

// take reads an object, and has it added with those before it if they are enough.
func (b *batch) take(ctx context.Context, info *nix.PathInfo, archive io.Reader) error {
	if len(b.infos) == batchObjects || b.archives.Len()+int(info.NARSize) > batchBytes {
		if err := b.flush(ctx); err != nil {
			return err
		}
	}
	before := b.archives.Len()
	n, err := nar.CopyArchive(&b.archives, archive, nar.Limits{Size: info.NARSize})
	if err == nil && n != info.NARSize {
		err = fmt.Errorf("the archive has %d bytes, not %d", n, info.NARSize)
	}
	if err != nil {
		b.archives.Truncate(before)
		return fmt.Errorf("add '%s': %w", info.Path, err)
	}
	b.infos = append(b.infos, info)
	return nil
}

// flush begins to add what was taken, after the batch before.
func (b *batch) flush(ctx context.Context) error {
	if err := b.wait(); err != nil || len(b.infos) == 0 {
		return err
	}
	infos, archives := b.infos, b.archives.Bytes()
	b.infos, b.archives = nil, bytes.Buffer{}
	b.adding = make(chan error, 1)
	ends := make([]int64, len(infos)+1)
	for i, info := range infos {
		ends[i+1] = ends[i] + info.NARSize
	}
	go func() {
		b.adding <- b.sink.AddMany(ctx, infos, func(_ context.Context, i int, w io.Writer) error {
			_, err := w.Write(archives[ends[i]:ends[i+1]])
			return err
		}, b.opts)
	}()
	return nil
}

// wait waits for the batch that is being added.
func (b *batch) wait() error {
	if b.adding == nil {
		return nil
	}
	err := <-b.adding
	if b.adding = nil; err != nil {
		b.infos = nil // what comes after it is not added either
	}
	return err
}
