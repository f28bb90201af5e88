package service

import (
	"fmt"
	"sync"
)

// shares count the connections of each user, so that none can have all that there are.
type shares struct {
	most int // connections of one user

	mu   sync.Mutex
	held map[uint32]int // by user; without those who have none
}

// enter takes a connection for a user who has not all that one may have.
func (s *shares) enter(c Client) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held[c.UID] >= s.most {
		return fmt.Errorf("user '%s' has %d connections to the daemon, which is as many as one user may have: close some of them, or try again later", c.User, s.most)
	}
	s.held[c.UID]++
	return nil
}

// leave gives it back.
func (s *shares) leave(c Client) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held[c.UID]--; s.held[c.UID] == 0 {
		delete(s.held, c.UID)
	}
}
