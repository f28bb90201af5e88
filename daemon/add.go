package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/nar"
	"github.com/kilnbuild/kiln/store"
	"github.com/kilnbuild/kiln/wire"
	"github.com/kilnbuild/kiln/wire/worker"
)

// A body is what follows a request before the client waits for the reply.
type body struct {
	io.Reader
	// drain reads what is left of it.
	drain func() error
}

// body gives the body of a request, nil if it has none.
func (s *session) body(req worker.Request) *body {
	if s.d.Framed(req) {
		f := wire.NewFramedReader(s.d.Reader)
		return &body{f, f.Drain}
	}
	switch r := req.(type) {
	case *worker.AddToStore:
		a := &inlineArchive{r: s.d}
		return &body{a, a.drain}
	case *worker.AddToStoreNar:
		if s.d.Version.Minor() < 21 {
			a := &inlineArchive{r: s.d}
			return &body{a, a.drain}
		}
		// The client sends what it is asked for, and nothing after an error.
		return &body{&askedArchive{s: s, left: r.Info.NARSize}, func() error { return nil }}
	case *worker.EmptyRequest:
		if r.Operation == worker.OpImportPaths {
			return &body{s.d, func() error { return nil }}
		}
	}
	return nil
}

// An inlineArchive is an archive that nothing frames: who reads it has to find its
// end.
type inlineArchive struct {
	r     io.Reader
	begun bool
	whole bool // set by who found the end
}

func (a *inlineArchive) Read(p []byte) (int, error) {
	a.begun = true
	return a.r.Read(p)
}

func (a *inlineArchive) drain() error {
	switch {
	case a.whole:
		return nil
	case a.begun:
		return errors.New("read archive: its end was not found")
	}
	_, err := nar.Skip(a.r, nar.Limits{})
	return err
}

// An askedArchive is an archive that the client sends in pieces when it is asked
// for them.
type askedArchive struct {
	s    *session
	left int64 // of the archive: to ask for more than there is would be an error
	have []byte
}

func (a *askedArchive) Read(p []byte) (int, error) {
	if len(a.have) == 0 {
		if a.left <= 0 {
			return 0, io.EOF
		}
		const piece = 32 << 10
		n := int(min(a.left, piece))
		if err := a.s.out.ask(n); err != nil {
			return 0, err
		}
		a.s.d.Begin()
		a.have = a.s.d.BytesUpTo(n)
		if err := a.s.d.Err(); err != nil {
			return 0, fatalError{err}
		}
		if len(a.have) == 0 {
			return 0, io.ErrUnexpectedEOF
		}
		a.left -= int64(len(a.have))
	}
	n := copy(p, a.have)
	a.have = a.have[n:]
	return n, nil
}

// addOptions says how an object is added that the client says everything of.
func (s *session) addOptions(repair, dontCheck bool) (store.AddOptions, error) {
	if repair && !s.trusted() {
		return store.AddOptions{}, errors.New("repairing is not allowed because you are not in 'trusted-users'")
	}
	return store.AddOptions{Repair: repair, CheckSignatures: !dontCheck || !s.trusted()}, nil
}

func (s *session) addToStoreNar(ctx context.Context, r *worker.AddToStoreNar, b *body) (reply, error) {
	opts, err := s.addOptions(r.Repair, r.DontCheckSigs)
	if err != nil {
		return nil, err
	}
	r.Info.Ultimate = r.Info.Ultimate && s.trusted()
	if a, ok := b.Reader.(*inlineArchive); ok {
		// What is read beyond its end would be the next request.
		err := s.store.Add(ctx, r.Info, a, opts)
		a.whole = err == nil
		return nothing, err
	}
	// The archive's end is found in pieces of some dozen bytes.
	archive := wire.NewReader(b, wire.Limits{})
	return nothing, s.store.Add(ctx, r.Info, archive, opts)
}

func (s *session) addBuildLog(ctx context.Context, r *worker.AddBuildLog, b *body) (reply, error) {
	st, ok := s.store.(LogAdder)
	switch {
	case !s.trusted():
		return nil, errors.New("you are not privileged to add logs")
	case !r.Drv.IsDerivation():
		return nil, s.notDerivation(r.Drv)
	case !ok:
		return nil, lacks(r.Op())
	}
	return done, st.AddBuildLog(ctx, r.Drv, b)
}

func (s *session) addSignatures(ctx context.Context, r *worker.AddSignatures) (reply, error) {
	st, ok := s.store.(Signer)
	if !ok {
		return nil, lacks(r.Op())
	}
	return done, st.AddSignatures(ctx, r.Path, r.Signatures)
}

func (s *session) addRoot(ctx context.Context, req worker.Request) (reply, error) {
	st, ok := s.store.(Rooter)
	if r, indirect := req.(*worker.AddIndirectRoot); indirect {
		if !ok {
			return nil, lacks(req.Op())
		}
		return done, st.AddIndirectRoot(ctx, r.Link)
	}
	r := req.(*worker.AddPermRoot)
	switch {
	case !s.trusted():
		return nil, errors.New("you are not privileged to create perm roots\n\nhint: you can just do this client-side without special privileges, and probably want to do that instead.")
	case !ok:
		return nil, lacks(req.Op())
	}
	return func(e *worker.Encoder) error {
		e.Text(r.Link)
		return nil
	}, st.AddPermRoot(ctx, r.Link, r.Path)
}

func (s *session) findRoots(ctx context.Context, r *worker.EmptyRequest) (reply, error) {
	st, ok := s.store.(Collector)
	if !ok {
		return nil, lacks(r.Operation)
	}
	roots, err := st.Roots(ctx)
	return func(e *worker.Encoder) error {
		told := make([]worker.Root, len(roots))
		for i, root := range roots {
			told[i] = root.Root
			if root.Private && !s.trusted() {
				told[i].Link = "{censored}"
			}
		}
		e.Roots(told)
		return nil
	}, err
}

func (s *session) collectGarbage(ctx context.Context, r *worker.CollectGarbage) (reply, error) {
	st, ok := s.store.(Collector)
	switch {
	case r.IgnoreLiveness:
		return nil, errors.New("you are not allowed to ignore liveness")
	case r.Action == worker.GCDeleteDead && !r.WholeStore && !s.d.Has(worker.DeleteSpecificReferrers):
		return nil, fmt.Errorf("collect garbage: %d paths are named, and yet all that are dead shall be deleted", len(r.Paths))
	case !ok:
		return nil, lacks(r.Op())
	}
	c, err := st.CollectGarbage(ctx, r)
	return func(e *worker.Encoder) error {
		e.Collected(c)
		return nil
	}, err
}

func (s *session) verifyStore(ctx context.Context, r *worker.VerifyStore) (reply, error) {
	st, ok := s.store.(Verifier)
	switch {
	case r.Repair && !s.trusted():
		return nil, errors.New("you are not privileged to repair paths")
	case !ok:
		return nil, lacks(r.Op())
	}
	log := s.newSink()
	defer log.close()
	wrong, err := st.VerifyStore(ctx, r, log)
	return func(e *worker.Encoder) error {
		e.Bool(wrong)
		return nil
	}, err
}

// textObject is what is added by AddTextToStore, as AddToStore says it.
func textObject(r *worker.AddTextToStore) *worker.AddToStore {
	return &worker.AddToStore{Name: r.Name, Method: nix.Text, Algorithm: nix.SHA256, References: r.References}
}
