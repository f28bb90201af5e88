package local

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kilnbuild/kiln/internal/testenv"
)

func TestAddRoot(t *testing.T) {
	testenv.NixVersion(t)
	s := newStore(t)
	ctx, dir := t.Context(), tempDir(t)
	first, err := s.AddText(ctx, "first", []byte("1"), nil)
	if err != nil {
		t.Fatal(err)
	}
	second, err := s.AddText(ctx, "second", []byte("2"), nil)
	if err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "a", "result")
	for _, p := range []string{"first", "second"} {
		want := first
		if p == "second" {
			want = second
		}
		if err := s.AddRoot(ctx, link, want); err != nil {
			t.Fatal(err)
		}
		if target, err := os.Readlink(link); err != nil || target != s.Dir().Join(want) {
			t.Errorf("the link leads to %q, %v", target, err)
		}
	}
	root := rootOf(s)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	want := link + " -> " + s.Dir().Join(second)
	if got := realNix(t, root, "nix-store", "--gc", "--print-roots"); !strings.Contains(got, want) {
		t.Errorf("Nix finds the roots\n%s\nwant\n%s", got, want)
	}
	if got := realNix(t, root, "nix-store", "--gc", "--print-dead"); !strings.Contains(got, string(first)) || strings.Contains(got, string(second)) {
		t.Errorf("Nix takes for dead\n%s", got)
	}
	if left, err := filepath.Glob(filepath.Join(dir, "a", "*.tmp-*")); err != nil || left != nil {
		t.Errorf("there is %v, %v", left, err)
	}
}

func TestAddRootRefuses(t *testing.T) {
	s := newStore(t)
	ctx, dir := t.Context(), tempDir(t)
	p, err := s.AddText(ctx, "text", []byte("1"), nil)
	if err != nil {
		t.Fatal(err)
	}
	file, foreign := filepath.Join(dir, "file"), filepath.Join(dir, "foreign")
	if err := os.WriteFile(file, []byte("mine"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc/passwd", foreign); err != nil {
		t.Fatal(err)
	}
	for link, words := range map[string]string{
		"result":                             "absolute path",
		filepath.Join(s.RealDir(), "result"): "in the Nix store is forbidden",
		string(s.Dir()) + "/x/result":        "in the Nix store is forbidden",
		file:                                 "something else is there already",
		foreign:                              "leads to '/etc/passwd'",
	} {
		if err := s.AddRoot(ctx, link, p); err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("%s: got %v, want %q", link, err, words)
		}
	}
	if text, err := os.ReadFile(file); err != nil || string(text) != "mine" {
		t.Errorf("the file has %q, %v", text, err)
	}
}
