package service

import (
	"errors"
	"fmt"
	"os/user"
	"slices"
	"strconv"

	"github.com/kilnbuild/kiln/daemon/socket"
	"github.com/kilnbuild/kiln/nix/conf"
	"github.com/kilnbuild/kiln/wire/worker"
)

// ErrRefused says that a client may not connect.
var ErrRefused = errors.New("not allowed to connect to the Nix daemon")

// A Client is who is at the other end of a connection.
type Client struct {
	socket.Peer
	// User and Group are the names of the process's user and group, or their numbers
	// if they have none.
	User, Group string
	Trust       worker.Trust
}

// Identify says who a client is, and how far the settings trust it: the names, the
// groups as "@name", and "*" for everybody of the settings trusted-users and
// allowed-users. Whoever the daemon itself runs as could do without it and is trusted.
// An error that wraps ErrRefused says that the client is not to be served. (Nix:
// authPeer.)
func Identify(p socket.Peer, s *conf.Settings, self uint32) (Client, error) {
	c := Client{Peer: p, User: strconv.Itoa(int(p.UID)), Group: strconv.Itoa(int(p.GID)), Trust: worker.NotTrusted}
	u, err := user.LookupId(c.User)
	if err == nil {
		c.User = u.Username
	} else {
		u = nil
	}
	if g, err := user.LookupGroupId(c.Group); err == nil {
		c.Group = g.Name
	}
	m := matcher{client: &c, user: u}
	if p.UID == self || m.any(s.TrustedUsers) {
		c.Trust = worker.Trusted
	}
	builder := s.BuildUsersGroup != "" && c.Group == s.BuildUsersGroup
	if builder || c.Trust != worker.Trusted && !m.any(s.AllowedUsers) {
		return c, fmt.Errorf("user '%s' is %w", c.User, ErrRefused)
	}
	return c, nil
}

// A matcher compares a client with the entries of settings.
type matcher struct {
	client *Client
	user   *user.User // nil if the machine does not know it
	groups []string   // numbers; looked up when they are asked for
	looked bool
}

func (m *matcher) any(entries []string) bool { return slices.ContainsFunc(entries, m.matches) }

func (m *matcher) matches(entry string) bool {
	if entry == "*" || entry == m.client.User {
		return true
	}
	if entry == "" || entry[0] != '@' {
		return false
	}
	if entry[1:] == m.client.Group {
		return true
	}
	g, err := user.LookupGroup(entry[1:])
	return err == nil && slices.Contains(m.memberships(), g.Gid)
}

// memberships are the groups that the machine says the user is in.
func (m *matcher) memberships() []string {
	if !m.looked && m.user != nil {
		m.groups, _ = m.user.GroupIds()
	}
	m.looked = true
	return m.groups
}
