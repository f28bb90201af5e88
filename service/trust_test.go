package service

import (
	"errors"
	"os/user"
	"strconv"
	"testing"

	"github.com/kilnbuild/kiln/daemon/socket"
	"github.com/kilnbuild/kiln/nix/conf"
	"github.com/kilnbuild/kiln/wire/worker"
)

// TestIdentify asks for everybody by every form that an entry can have.
func TestIdentify(t *testing.T) {
	root, err := user.LookupId("0")
	if err != nil {
		t.Skip(err)
	}
	group, err := user.LookupGroupId("0")
	if err != nil {
		t.Skip(err)
	}
	const self, stranger = 77_777, 88_888
	for _, tt := range []struct {
		name             string
		trusted, allowed []string
		builders         string
		uid, gid         uint32
		want             worker.Trust
		refused          bool
	}{
		{"nobody", nil, nil, "", stranger, stranger, worker.NotTrusted, true},
		{"everybody may", nil, []string{"*"}, "", stranger, stranger, worker.NotTrusted, false},
		{"everybody is trusted", []string{"*"}, nil, "", stranger, stranger, worker.Trusted, false},
		{"by name", []string{root.Username}, nil, "", 0, stranger, worker.Trusted, false},
		{"another name", []string{root.Username + "x", ""}, []string{"x"}, "", 0, stranger, worker.NotTrusted, true},
		{"by number", []string{strconv.Itoa(stranger)}, nil, "", stranger, stranger, worker.Trusted, false},
		{"allowed by name", []string{"x"}, []string{root.Username}, "", 0, stranger, worker.NotTrusted, false},
		{"by its group", []string{"@" + group.Name}, nil, "", stranger, 0, worker.Trusted, false},
		{"allowed by its group", nil, []string{"@" + group.Name}, "", stranger, 0, worker.NotTrusted, false},
		{"by membership", []string{"@" + group.Name}, nil, "", 0, stranger, worker.Trusted, false},
		{"a group that is not there", []string{"@no-such-group", "@"}, nil, "", 0, 0, worker.NotTrusted, true},
		{"a name that is a group", []string{group.Name + "-group"}, nil, "", stranger, 0, worker.NotTrusted, true},
		{"the daemon's own user", nil, nil, "", self, stranger, worker.Trusted, false},
		{"a build user", []string{"*"}, []string{"*"}, group.Name, stranger, 0, worker.Trusted, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := &conf.Settings{TrustedUsers: tt.trusted, AllowedUsers: tt.allowed, BuildUsersGroup: tt.builders}
			c, err := Identify(socket.Peer{UID: tt.uid, GID: tt.gid}, s, self)
			if errors.Is(err, ErrRefused) != tt.refused || c.Trust != tt.want {
				t.Errorf("%+v, %v", c, err)
			}
		})
	}
}
