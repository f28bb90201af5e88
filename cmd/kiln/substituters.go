package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"

	"github.com/kilnbuild/kiln/executor/substitute"
	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/conf"
	"github.com/kilnbuild/kiln/nix/sign"
	"github.com/kilnbuild/kiln/store"
	"github.com/kilnbuild/kiln/store/binarycache"
	"github.com/kilnbuild/kiln/store/lookups"
)

// substituters are the sets of substituters in use, one for all who have the same
// settings, with what they remember of binary caches. It is safe for concurrent use.
type substituters struct {
	mu   sync.Mutex
	sets map[string]*sharedSet
	// remembered is opened when the first substituter is: most builds ask none. It is nil
	// if it cannot be.
	remembered *lookups.Cache
	opened     bool
}

// sharedSet is a set with the stores that were opened for it.
type sharedSet struct {
	set    *substitute.Set
	users  int // guarded by substituters.mu
	mu     sync.Mutex
	stores []io.Closer
}

func newSubstituters() *substituters { return &substituters{sets: make(map[string]*sharedSet)} }

// use gives the set of a configuration, nil for none, and what ends its use.
func (s *substituters) use(c *configuration) (*substitute.Set, func(), error) {
	if !c.settings.Substitute || len(c.settings.Substituters) == 0 {
		return nil, func() {}, nil
	}
	dir, err := nix.ParseStoreDir(c.local.Store)
	if err != nil {
		return nil, nil, err
	}
	keys, err := c.trustedKeys()
	if err != nil {
		return nil, nil, err
	}
	id := c.substitutersID(keys)
	s.mu.Lock()
	defer s.mu.Unlock()
	shared := s.sets[id]
	if shared == nil {
		shared = &sharedSet{}
		shared.set = substitute.New(substitute.Config{
			Dir: dir, URIs: c.settings.Substituters, RequireSignatures: c.settings.RequireSigs, Keys: keys,
			Open: func(ctx context.Context, uri string) (*substitute.Substituter, error) {
				own := *c
				own.lookups = s.lookups(c)
				return shared.open(ctx, &own, uri)
			},
		})
		s.sets[id] = shared
	}
	shared.users++
	return shared.set, sync.OnceFunc(func() { s.letGo(id, shared) }), nil
}

// substitutersID is the same for settings that make the same set.
func (c *configuration) substitutersID(keys sign.Keys) string {
	s := c.settings
	return fmt.Sprintf("%q %v %v %v %v %v %v %v %v %v %v %v %v", s.Substituters, s.RequireSigs, keys, s.NarinfoCachePositiveTTL, s.NarinfoCacheNegativeTTL,
		s.NarinfoCacheMetaTTL, s.DownloadAttempts, s.StalledDownloadTimeout, s.RetryDelay, s.UserAgentSuffix, s.NetrcFile, s.SSLCertFile, s.HTTP2)
}

// lookups opens what is remembered of binary caches, and gives it for the times that
// the settings have. Without it everything works, only slower.
func (s *substituters) lookups(c *configuration) *lookups.Cache {
	ttl := lookups.TTL{
		Positive: c.settings.NarinfoCachePositiveTTL, Negative: c.settings.NarinfoCacheNegativeTTL, Meta: c.settings.NarinfoCacheMetaTTL,
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if dir := conf.Host().CacheDir(); !s.opened && dir != "" {
		s.opened = true
		var err error
		if s.remembered, err = lookups.Open(filepath.Join(dir, lookups.FileName), ttl, c.settings.UseSQLiteWAL); err != nil {
			fmt.Fprintf(os.Stderr, "warning: %v\n", err)
		}
	}
	if s.remembered == nil {
		return nil
	}
	return s.remembered.With(ttl)
}

func (s *substituters) letGo(id string, shared *sharedSet) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if shared.users--; shared.users == 0 {
		delete(s.sets, id)
		_ = shared.close() // of stores that were only read from
	}
}

// Close closes what is remembered. Nobody uses a set any more.
func (s *substituters) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.remembered == nil {
		return nil
	}
	return s.remembered.Close()
}

func (s *sharedSet) close() (err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, st := range s.stores {
		err = errors.Join(err, st.Close())
	}
	s.stores = nil
	return err
}

// open opens one substituter.
func (s *sharedSet) open(ctx context.Context, c *configuration, uri string) (*substitute.Substituter, error) {
	u, err := conf.ParseStoreURI(uri, "")
	if err != nil {
		return nil, err
	}
	opened, err := c.openAny(ctx, uri, false)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.stores = append(s.stores, opened.Closer)
	s.mu.Unlock()
	sub := &substitute.Substituter{Name: opened.name, Trusted: u.Bool("trusted", false), WantMassQuery: u.Bool("want-mass-query", false)}
	sub.Store = opened.substituter()
	if st, ok := opened.Store.(*binarycache.Cache); ok {
		about := st.About()
		sub.Priority, sub.WantMassQuery = about.Priority, about.WantMassQuery
	}
	if text := u.Params.Get("priority"); text != "" {
		if _, err := fmt.Sscan(text, &sub.Priority); err != nil {
			return nil, fmt.Errorf("substituter '%s': '%s' is no priority", u.Redacted(), text)
		}
	}
	return sub, nil
}

// substituter is the store as something to substitute from, with the realisations that it
// knows.
func (s openedStore) substituter() substitute.Store {
	switch st := s.Store.(type) {
	case *binarycache.Cache:
		return cacheSubstituter{st}
	case store.RealisationStore:
		return storeSubstituter{s.Store, st}
	}
	return s.Store
}

// cacheSubstituter is a binary cache that knows realisations.
type cacheSubstituter struct{ *binarycache.Cache }

// Realisation implements substitute.RealisationSource.
func (s cacheSubstituter) Realisation(ctx context.Context, id nix.DrvOutput, legacy string) (*substitute.Realisation, error) {
	r, err := s.Cache.Realisation(ctx, id, legacy)
	return (*substitute.Realisation)(r), err
}

// storeSubstituter is another store that knows realisations.
type storeSubstituter struct {
	store.Store
	realisations store.RealisationStore
}

// Realisation implements substitute.RealisationSource. Such stores do not say what their
// signatures are of.
func (s storeSubstituter) Realisation(ctx context.Context, id nix.DrvOutput, legacy string) (*substitute.Realisation, error) {
	r, err := s.realisations.Realisation(ctx, id)
	if err != nil {
		return nil, err
	}
	return &substitute.Realisation{OutPath: r.OutPath, Signatures: r.Signatures, Fingerprint: sign.LegacyRealisation(legacy, r.OutPath)}, nil
}
