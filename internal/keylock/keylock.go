package keylock

import (
	"context"
	"sync"
)

// A Set is any number of locks, one for each key. The zero value is ready, and
// has no lock held. It must not be copied after its first use. Memory is used
// for keys that are held or waited for, and for no others.
type Set[K comparable] struct {
	mu    sync.Mutex
	locks map[K]*lock
}

// lock is one key's. token has a value in it while nobody holds the key.
type lock struct {
	token chan struct{}
	users int // who hold or wait, under the set's mutex
}

// Lock waits until nobody holds key, and then holds it. The result gives it
// back; a second call of it does nothing. When ctx ends first, Lock returns its
// cause. Who waits longer has no precedence.
func (s *Set[K]) Lock(ctx context.Context, key K) (unlock func(), err error) {
	l := s.enter(key)
	select {
	case <-l.token:
		return s.unlocker(key, l), nil
	default:
	}
	select {
	case <-l.token:
		return s.unlocker(key, l), nil
	case <-ctx.Done():
		s.leave(key, l)
		return nil, context.Cause(ctx)
	}
}

// TryLock is Lock, but gives up at once where it would wait.
func (s *Set[K]) TryLock(key K) (unlock func(), ok bool) {
	l := s.enter(key)
	select {
	case <-l.token:
		return s.unlocker(key, l), true
	default:
		s.leave(key, l)
		return nil, false
	}
}

func (s *Set[K]) unlocker(key K, l *lock) func() {
	return sync.OnceFunc(func() {
		l.token <- struct{}{}
		s.leave(key, l)
	})
}

// enter gives the lock of a key to one more user.
func (s *Set[K]) enter(key K) *lock {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.locks[key]
	if l == nil {
		if s.locks == nil {
			s.locks = make(map[K]*lock)
		}
		l = &lock{token: make(chan struct{}, 1)}
		l.token <- struct{}{}
		s.locks[key] = l
	}
	l.users++
	return l
}

// leave forgets a key that nobody uses any more.
func (s *Set[K]) leave(key K, l *lock) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l.users--; l.users == 0 {
		delete(s.locks, key)
	}
}
