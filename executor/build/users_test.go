package build

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestFindGroup(t *testing.T) {
	file := filepath.Join(t.TempDir(), "group")
	text := "root:x:0:\nbuilders:x:42:b1,b2\nempty:x:43:\nbad:x:nan:b1\n"
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	g, err := findGroup(file, "builders")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(groupEntry{name: "builders", gid: 42, members: []string{"b1", "b2"}}, *g, cmp.AllowUnexported(groupEntry{})); diff != "" {
		t.Error(diff)
	}
	if g, err := findGroup(file, "none"); g != nil || err != nil {
		t.Errorf("a group that is not there is %v, %v", g, err)
	}
	if _, err := findGroup(file, "bad"); err == nil {
		t.Error("a group without a number was accepted")
	}
	if g, err := findGroup(filepath.Join(filepath.Dir(file), "missing"), "x"); g != nil || err != nil {
		t.Errorf("without a database a group is %v, %v", g, err)
	}
}

func TestUserIDs(t *testing.T) {
	file := filepath.Join(t.TempDir(), "passwd")
	if err := os.WriteFile(file, []byte("b2:x:12:1::/:\nb1:x:11:1::/:\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	ids, err := userIDs(file, []string{"b1", "b2"})
	if err != nil || !cmp.Equal(ids, []int{11, 12}) {
		t.Errorf("userIDs = %v, %v", ids, err)
	}
	if _, err := userIDs(file, []string{"b3"}); err == nil {
		t.Error("a member without an account was accepted")
	}
}

// TestUsersAreExclusive makes two pools on the same directory, as two programs
// would, and takes users from both.
func TestUsersAreExclusive(t *testing.T) {
	pool := t.TempDir()
	a := &Users{pool: &groupMembers{dir: pool, ids: []int{11, 12}, gid: 1}}
	b := &Users{pool: &groupMembers{dir: pool, ids: []int{11, 12}, gid: 1}}
	first, err := a.Acquire(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	second, err := b.Acquire(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if first.UID == second.UID {
		t.Fatalf("both have the user %d", first.UID)
	}
	ctx, cancel := context.WithCancel(t.Context())
	waited := false
	if _, err := a.Acquire(ctx, func() { waited = true; cancel() }); err == nil || !waited {
		t.Errorf("a third user was given out: %v", err)
	}
	first.Release()
	third, err := b.Acquire(t.Context(), nil)
	if err != nil || third.UID != 11 {
		t.Errorf("after a release: %v, %v", third, err)
	}
	second.Release()
	third.Release()
	third.Release()
}

func TestAllocatedUsers(t *testing.T) {
	u := &Users{pool: &allocatedIDs{dir: t.TempDir(), first: autoFirstID, slots: 2, per: autoIDsPer}}
	a, err := u.Acquire(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Release()
	b, err := u.Acquire(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Release()
	if a.UID != autoFirstID || b.UID != autoFirstID+autoIDsPer || a.GID != a.UID {
		t.Errorf("allocated %d:%d and %d:%d", a.UID, a.GID, b.UID, b.GID)
	}
}

// TestUsersOfBuildersThatWait takes more users than a group has, for builds that
// builders of the group wait for.
func TestUsersOfBuildersThatWait(t *testing.T) {
	dir := t.TempDir()
	u := &Users{
		pool:    &groupMembers{dir: dir, ids: []int{11, 12}, gid: 1},
		reserve: &allocatedIDs{dir: dir, first: autoFirstID, slots: 1, per: 1, gid: 1},
	}
	acquire := func() (*User, error) {
		ctx, cancel := context.WithCancel(t.Context())
		user, err := u.Acquire(ctx, cancel)
		if user != nil {
			t.Cleanup(user.Release)
		}
		return user, err
	}
	mustAcquire := func() *User {
		t.Helper()
		user, err := acquire()
		if err != nil {
			t.Fatal(err)
		}
		return user
	}
	mustAcquire()
	second := mustAcquire()
	u.Waits()
	if user, err := acquire(); !errors.Is(err, context.Canceled) {
		t.Fatalf("one builder waits, and another has a user, which it will give back: %v, %v", user, err)
	}
	u.Waits()
	if third := mustAcquire(); third.UID != autoFirstID || third.GID != 1 || third.Count != 1 {
		t.Errorf("after all members of the group comes %d:%d, %d ids", third.UID, third.GID, third.Count)
	}
	end := u.Waits()
	if user, err := acquire(); err == nil || !strings.Contains(err.Error(), "all 3 build users") {
		t.Errorf("all who have a user wait: %v, %v", user, err)
	}
	end()
	second.Release()
	if user := mustAcquire(); user.UID != second.UID {
		t.Errorf("after a release comes %d", user.UID)
	}
}

// TestAcquireAgain has what a user has left gone on with by the same user.
func TestAcquireAgain(t *testing.T) {
	dir := t.TempDir()
	u := &Users{
		pool:    &groupMembers{dir: dir, ids: []int{11, 12}, gid: 1},
		reserve: &allocatedIDs{dir: dir, first: autoFirstID, slots: 2, per: 1, gid: 1},
	}
	for _, uid := range []int{12, autoFirstID + autoIDsPer} {
		first, err := u.AcquireAgain(t.Context(), uid, nil)
		if err != nil || first.UID != uid || first.GID != 1 {
			t.Fatalf("user %d: %v, %v", uid, first, err)
		}
		again, err := u.AcquireAgain(t.Context(), uid, first.Release)
		if err != nil || again.UID != uid {
			t.Errorf("user %d, after who had it: %v, %v", uid, again, err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		if user, err := u.AcquireAgain(ctx, uid, cancel); !errors.Is(err, context.Canceled) {
			t.Errorf("user %d, whom somebody has: %v, %v", uid, user, err)
		}
		again.Release()
	}
	for _, uid := range []int{0, 13, autoFirstID + 1, autoFirstID + 2*autoIDsPer, autoFirstID - autoIDsPer} {
		if user, err := u.AcquireAgain(t.Context(), uid, nil); err == nil {
			t.Errorf("user %d, who is no build user, was given out: %v", uid, user)
		}
	}
	if _, err := (&Users{own: true}).AcquireAgain(t.Context(), os.Geteuid()+1, nil); err == nil {
		t.Error("somebody without build users became another one")
	}
}
