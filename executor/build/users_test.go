package build

import (
	"context"
	"os"
	"path/filepath"
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
	if diff := cmp.Diff(groupEntry{gid: 42, members: []string{"b1", "b2"}}, *g, cmp.AllowUnexported(groupEntry{})); diff != "" {
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
	a := &Users{members: []int{11, 12}, gid: 1, pool: pool}
	b := &Users{members: []int{11, 12}, gid: 1, pool: pool}
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
	u := &Users{firstID: autoFirstID, slots: 2, pool: t.TempDir()}
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
