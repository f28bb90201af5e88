package local

import (
	"sync"

	"github.com/kilnbuild/kiln/nix"
)

// lease is how long a Store that Lease gave keeps its temporary roots.
type lease struct {
	mu    sync.Mutex
	holds int // its own, and those of Hold
	roots *tempRoots
}

// Lease gives the same store with temporary roots of its own, for one of several
// users of this process: they go when the lease is closed, and nobody holds it.
// verify tells whether an object comes with a signature that this user trusts, as
// Options.VerifySignatures. The store must not be closed before its leases.
func (s *Store) Lease(verify func(*nix.PathInfo) error) *Store {
	l := &Store{shared: s.shared, roots: &tempRoots{}, verify: verify}
	l.roots.init(l)
	l.lease = &lease{holds: 1, roots: l.roots}
	l.close = sync.OnceValue(l.lease.release)
	return l
}

// Hold keeps the temporary roots of a lease until release is called, which may be
// done more than once, even if the lease is closed before. The store that Open gave
// has its roots until it is closed.
func (s *Store) Hold() (release func()) {
	if s.lease == nil {
		return func() {}
	}
	s.lease.mu.Lock()
	defer s.lease.mu.Unlock()
	s.lease.holds++
	return sync.OnceFunc(func() {
		if err := s.lease.release(); err != nil {
			s.opts.Warn(err)
		}
	})
}

func (l *lease) release() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.holds--; l.holds > 0 {
		return nil
	}
	return l.roots.close()
}
