package substitute

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/sign"
	"github.com/kilnbuild/kiln/store"
)

// A Store is one that objects are fetched from. What it can beyond that is found by
// type assertion: DownloadSizer, RealisationSource, store.BatchSource.
type Store interface {
	store.Source
	Dir() nix.StoreDir
}

// A DownloadSizer knows how many bytes NAR would fetch; 0 for what it does not know.
type DownloadSizer interface {
	DownloadSize(ctx context.Context, p nix.StorePath) (int64, error)
}

// A RealisationSource knows what outputs of derivations are.
type RealisationSource interface {
	// Realisation gives an error that wraps store.ErrNotFound when nothing is known.
	// legacy is what Nix before 2.35 calls the output.
	Realisation(ctx context.Context, id nix.DrvOutput, legacy string) (*Realisation, error)
}

// A Realisation is what a store says an output of a derivation is.
type Realisation struct {
	OutPath nix.StorePath
	// Signatures are of Fingerprint.
	Signatures  []string
	Fingerprint string
}

// A Substituter is an open store that objects are fetched from.
type Substituter struct {
	Name  string // for messages
	Store Store
	// Priority: the one with the lowest is asked first.
	Priority int
	// WantMassQuery says that it may be asked for many objects that it has not.
	WantMassQuery bool
	// Trusted says that its objects need no signatures.
	Trusted bool
}

// Config says where objects come from, and whom to believe.
type Config struct {
	// Dir is the store directory of the objects.
	Dir nix.StoreDir
	// URIs are the substituters. Of those with equal priorities the first is asked first.
	URIs []string
	// Open opens one. It is the caller's to close, after the Set is used no more, and may
	// be called again for one that could not be opened.
	Open func(ctx context.Context, uri string) (*Substituter, error)
	// RequireSignatures refuses objects that are neither content-addressed nor signed by
	// one of Keys, and realisations that are not signed.
	RequireSignatures bool
	Keys              sign.Keys
}

// pause is for how long a substituter that could not be opened is not tried again
// (Nix: HttpBinaryCacheStore::maybeDisable).
const pause = time.Minute

// A Set is some substituters, which are opened when they are needed. It is safe for
// concurrent use.
type Set struct {
	cfg Config

	opening chan struct{} // has a token while somebody opens
	mu      sync.Mutex
	opened  []*Substituter // one for each of URIs, nil for those that are not open
	sorted  []*Substituter // those that are
	retry   time.Time      // when to try again those that are not
}

// New gives the substituters of a configuration.
func New(cfg Config) *Set {
	return &Set{cfg: cfg, opening: make(chan struct{}, 1), opened: make([]*Substituter, len(cfg.URIs))}
}

// Dir is the store directory of the objects.
func (s *Set) Dir() nix.StoreDir { return s.cfg.Dir }

// Substituters gives those that can be used, in the order in which they are to be
// asked. warn is told of each that cannot be opened, once in a while.
func (s *Set) Substituters(ctx context.Context, warn func(text string)) ([]*Substituter, error) {
	if all, ok := s.ready(); ok {
		return all, nil
	}
	select {
	case s.opening <- struct{}{}:
		defer func() { <-s.opening }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if all, ok := s.ready(); ok { // while this one waited
		return all, nil
	}
	return s.open(ctx, warn)
}

// ready gives the open ones, if there is nothing to be opened now.
func (s *Set) ready() ([]*Substituter, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sorted, len(s.sorted) == len(s.opened) || time.Now().Before(s.retry)
}

// open opens those that are not open. Only one may call it at a time.
func (s *Set) open(ctx context.Context, warn func(text string)) ([]*Substituter, error) {
	errs := make([]error, len(s.opened))
	var wg sync.WaitGroup
	for i, uri := range s.cfg.URIs {
		if s.opened[i] == nil {
			wg.Go(func() { s.opened[i], errs[i] = s.cfg.Open(ctx, uri) })
		}
	}
	wg.Wait()
	if err := context.Cause(ctx); err != nil {
		return nil, err
	}
	sorted := slices.DeleteFunc(slices.Clone(s.opened), func(u *Substituter) bool { return u == nil })
	slices.SortStableFunc(sorted, func(a, b *Substituter) int { return cmp.Compare(a.Priority, b.Priority) })
	for _, err := range errs {
		if err != nil {
			warn(fmt.Sprintf("substituter is not used: %v", err))
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sorted, s.retry = sorted, time.Now().Add(pause)
	return sorted, nil
}

// An Offer is an object that a substituter has. It is a store.Source of that object
// alone, by the name that it has here.
type Offer struct {
	From *Substituter
	// Info is what is said of the object. It is not to be changed.
	Info *nix.PathInfo
	// DownloadSize is how many bytes are to be fetched, 0 if that is not known.
	DownloadSize int64
	// CheckSignatures is store.AddOptions.CheckSignatures for who adds it.
	CheckSignatures bool
	there           nix.StorePath // its name at the substituter
}

// ErrNotSigned says that a substituter has an object that is not to be believed.
var ErrNotSigned = errors.New("it's not signed by any of the keys in 'trusted-public-keys'")

// Ask asks a substituter for an object. An error that wraps store.ErrNotFound says that
// it has none, and one that wraps ErrNotSigned that it has none to be believed. An
// object with a content address and without references may be at a store of another
// directory, by another name.
func (s *Set) Ask(ctx context.Context, u *Substituter, p nix.StorePath, ca nix.ContentAddress) (*Offer, error) {
	there, err := s.nameAt(u, p, ca)
	if err != nil {
		return nil, err
	}
	info, err := u.Store.PathInfo(ctx, there)
	if err != nil {
		return nil, err
	}
	o := &Offer{From: u, Info: info, CheckSignatures: !u.Trusted && s.cfg.RequireSignatures, there: there}
	if u.Store.Dir() != s.cfg.Dir {
		if len(info.References) > 0 || info.CA != ca {
			return nil, fmt.Errorf("asked '%s' for '%s' but got '%s'", u.Name, s.cfg.Dir.Join(p), u.Store.Dir().Join(info.Path))
		}
		info.Path, info.Deriver, info.Signatures = p, "", nil
	}
	if sizer, ok := u.Store.(DownloadSizer); ok {
		if o.DownloadSize, err = sizer.DownloadSize(ctx, there); err != nil {
			return nil, err
		}
	}
	if o.CheckSignatures && !s.believable(info) {
		return nil, fmt.Errorf("ignoring substitute for '%s' from '%s', as %w", s.cfg.Dir.Join(p), u.Name, ErrNotSigned)
	}
	return o, nil
}

// nameAt is what an object is called at a substituter.
func (s *Set) nameAt(u *Substituter, p nix.StorePath, ca nix.ContentAddress) (nix.StorePath, error) {
	if u.Store.Dir() == s.cfg.Dir {
		return p, nil
	}
	if ca.IsZero() {
		return "", fmt.Errorf("'%s' is a store with another directory: %w", u.Name, store.ErrNotFound)
	}
	return nix.MakeContentAddressedPath(u.Store.Dir(), p.Name(), ca, nix.References{})
}

// believable tells whether an object speaks for itself, or somebody does who is
// trusted. What a content address claims is seen when the object has come.
func (s *Set) believable(info *nix.PathInfo) bool {
	if !info.CA.IsZero() {
		p, err := nix.MakeContentAddressedPath(s.cfg.Dir, info.Path.Name(), info.CA, info.SelfReferences())
		return err == nil && p == info.Path
	}
	return s.cfg.Keys.TrustedObject(s.cfg.Dir, info)
}

// Realisation asks a substituter what an output is, which legacy is the name of as
// before Nix 2.35. Errors are as of Ask.
func (s *Set) Realisation(ctx context.Context, u *Substituter, id nix.DrvOutput, legacy string) (*nix.Realisation, error) {
	source, ok := u.Store.(RealisationSource)
	if !ok || u.Store.Dir() != s.cfg.Dir {
		return nil, store.ErrNotFound
	}
	r, err := source.Realisation(ctx, id, legacy)
	if err != nil {
		return nil, err
	}
	if !u.Trusted && s.cfg.RequireSignatures && !s.cfg.Keys.Trusted(r.Fingerprint, r.Signatures) {
		return nil, fmt.Errorf("ignoring what '%s' says that '%s^%s' is, as %w", u.Name, s.cfg.Dir.Join(id.Drv), id.Output, ErrNotSigned)
	}
	return &nix.Realisation{ID: id, OutPath: r.OutPath, Signatures: r.Signatures}, nil
}
