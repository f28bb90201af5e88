package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/githash"
	"github.com/kilnbuild/kiln/nix/nar"
	"github.com/kilnbuild/kiln/store"
)

// Memory is a store in memory. It holds whole archives: it is for tests with small
// objects. It is safe for concurrent use.
type Memory struct {
	dir nix.StoreDir
	// Trusts tells whether an object has a signature that is trusted. If it is nil,
	// none is. It is set before the store is used.
	Trusts func(*nix.PathInfo) error

	mu           sync.Mutex
	objects      map[nix.StorePath]Object
	realisations map[nix.DrvOutput]nix.Realisation
}

// NewMemory makes an empty store.
func NewMemory(dir nix.StoreDir) *Memory {
	return &Memory{dir: dir, objects: make(map[nix.StorePath]Object), realisations: make(map[nix.DrvOutput]nix.Realisation)}
}

// Dir implements store.Store.
func (m *Memory) Dir() nix.StoreDir { return m.dir }

func (m *Memory) object(p nix.StorePath) (Object, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	o, ok := m.objects[p]
	if !ok {
		return Object{}, fmt.Errorf("path '%s': %w", m.dir.Join(p), store.ErrNotFound)
	}
	return o, nil
}

// PathInfo implements store.Source.
func (m *Memory) PathInfo(_ context.Context, p nix.StorePath) (*nix.PathInfo, error) {
	o, err := m.object(p)
	if err != nil {
		return nil, err
	}
	info := o.Info
	info.References, info.Signatures = slices.Clone(info.References), slices.Clone(info.Signatures)
	return &info, nil
}

// NAR implements store.Source.
func (m *Memory) NAR(ctx context.Context, p nix.StorePath, w io.Writer) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	o, err := m.object(p)
	if err != nil {
		return err
	}
	_, err = w.Write(o.NAR)
	return err
}

// Add implements store.Sink.
func (m *Memory) Add(ctx context.Context, info *nix.PathInfo, archive io.Reader, opts store.AddOptions) error {
	if err := m.add(ctx, info, archive, opts); err != nil {
		return fmt.Errorf("add '%s': %w", m.dir.Join(info.Path), err)
	}
	return nil
}

func (m *Memory) add(ctx context.Context, info *nix.PathInfo, archive io.Reader, opts store.AddOptions) error {
	if err := m.checkClaims(info, opts); err != nil {
		return err
	}
	var b bytes.Buffer
	if _, err := nar.CopyArchive(&b, archive, nar.Limits{}); err != nil {
		return err
	}
	if err := context.Cause(ctx); err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.objects[info.Path]; ok && !opts.Repair {
		return nil
	}
	if err := check(info, b.Bytes()); err != nil {
		return err
	}
	for _, r := range info.References {
		if _, ok := m.objects[r]; !ok && r != info.Path {
			return fmt.Errorf("reference '%s': %w", m.dir.Join(r), store.ErrNotFound)
		}
	}
	kept := *info
	kept.NARSize = int64(b.Len())
	kept.References, kept.Signatures = slices.Clone(info.References), slices.Clone(info.Signatures)
	m.objects[info.Path] = Object{Info: kept, NAR: b.Bytes()}
	return nil
}

func (m *Memory) checkClaims(info *nix.PathInfo, opts store.AddOptions) error {
	if !info.CA.IsZero() {
		p, err := nix.MakeContentAddressedPath(m.dir, info.Path.Name(), info.CA, info.SelfReferences())
		if err == nil && p != info.Path {
			err = errors.New("the path does not follow from the content address")
		}
		return err
	}
	if !opts.CheckSignatures {
		return nil
	}
	if m.Trusts == nil {
		return errors.New("no signature is trusted")
	}
	return m.Trusts(info)
}

// check compares an archive with what is said of it. Content addresses of trees
// that refer to themselves are believed.
func check(info *nix.PathInfo, archive []byte) error {
	if got := nix.HashBytes(nix.SHA256, archive); got != info.NARHash {
		return fmt.Errorf("the archive has the hash %s, not %s", got, info.NARHash)
	}
	if info.NARSize != 0 && info.NARSize != int64(len(archive)) {
		return errors.New("the archive has another size")
	}
	if info.CA.IsZero() || info.SelfReferences().Self {
		return nil
	}
	content := archive
	switch info.CA.Method {
	case nix.Recursive:
	case nix.Git:
		h, err := githash.Sum(bytes.NewReader(archive), info.CA.Hash.Algorithm(), nar.Limits{})
		if err == nil && h != info.CA.Hash {
			err = errors.New("the content does not have its content address")
		}
		return err
	default:
		r := nar.NewReader(bytes.NewReader(archive), nar.Limits{})
		h, err := r.Next()
		if err == nil && (h.Type != nar.Regular || h.Executable && info.CA.Method == nix.Text) {
			err = errors.New("not a plain file")
		}
		if err == nil {
			content, err = io.ReadAll(r)
		}
		if err != nil {
			return err
		}
	}
	if nix.HashBytes(info.CA.Hash.Algorithm(), content) != info.CA.Hash {
		return errors.New("the content does not have its content address")
	}
	return nil
}

// ValidPaths implements store.BatchSource.
func (m *Memory) ValidPaths(_ context.Context, paths []nix.StorePath) ([]nix.StorePath, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var valid []nix.StorePath
	for _, p := range paths {
		if _, ok := m.objects[p]; ok {
			valid = append(valid, p)
		}
	}
	return valid, nil
}

// Referrers implements store.ReferrerSource.
func (m *Memory) Referrers(_ context.Context, p nix.StorePath) ([]nix.StorePath, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var referrers []nix.StorePath
	for _, o := range m.objects {
		if slices.Contains(o.Info.References, p) {
			referrers = append(referrers, o.Info.Path)
		}
	}
	slices.Sort(referrers)
	return referrers, nil
}

// AddTempRoot implements store.TempRooter. There is no collector.
func (m *Memory) AddTempRoot(context.Context, ...nix.StorePath) error { return nil }

// Realisation implements store.RealisationStore.
func (m *Memory) Realisation(_ context.Context, id nix.DrvOutput) (*nix.Realisation, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r, ok := m.realisations[id]
	if !ok {
		return nil, fmt.Errorf("realisation of '%s^%s': %w", m.dir.Join(id.Drv), id.Output, store.ErrNotFound)
	}
	r.Signatures = slices.Clone(r.Signatures)
	return &r, nil
}

// RegisterRealisation implements store.RealisationStore.
func (m *Memory) RegisterRealisation(_ context.Context, r *nix.Realisation) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.objects[r.OutPath]; !ok {
		return fmt.Errorf("realisation as '%s': %w", m.dir.Join(r.OutPath), store.ErrNotFound)
	}
	kept := *r
	if old, ok := m.realisations[r.ID]; ok {
		if old.OutPath != r.OutPath {
			return fmt.Errorf("'%s^%s' is known to be '%s'", m.dir.Join(r.ID.Drv), r.ID.Output, m.dir.Join(old.OutPath))
		}
		kept.Signatures = slices.Concat(old.Signatures, r.Signatures)
	}
	kept.Signatures = slices.Compact(slices.Sorted(slices.Values(kept.Signatures)))
	m.realisations[r.ID] = kept
	return nil
}
