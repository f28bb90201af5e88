package substitute

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/sign"
	"github.com/kilnbuild/kiln/store"
	"github.com/kilnbuild/kiln/store/storetest"
)

const dir = nix.DefaultStoreDir

// names gives the names of what can be used.
func names(t *testing.T, s *Set, warned *[]string) []string {
	t.Helper()
	all, err := s.Substituters(t.Context(), func(text string) { *warned = append(*warned, text) })
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, u := range all {
		names = append(names, u.Name)
	}
	return names
}

func TestOrderAndRetry(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		priorities := map[string]int{"a": 40, "b": 10, "c": 40}
		broken := errors.New("it is broken")
		var opened []string
		turn := make(chan struct{}, 1)
		s := New(Config{Dir: dir, URIs: []string{"a", "b", "d", "c"}, Open: func(_ context.Context, uri string) (*Substituter, error) {
			turn <- struct{}{}
			defer func() { <-turn }()
			opened = append(opened, uri)
			if uri == "d" && broken != nil {
				return nil, broken
			}
			return &Substituter{Name: uri, Store: storetest.NewMemory(dir), Priority: priorities[uri]}, nil
		}})
		var warned []string
		if got := names(t, s, &warned); !slices.Equal(got, []string{"b", "a", "c"}) {
			t.Errorf("they are asked as %v", got)
		}
		if len(warned) != 1 || !strings.Contains(warned[0], "it is broken") {
			t.Errorf("warned of %q", warned)
		}
		// It is left alone for a while, and then tried again.
		names(t, s, &warned)
		broken = nil
		time.Sleep(pause)
		if got := names(t, s, &warned); !slices.Equal(got, []string{"d", "b", "a", "c"}) || len(warned) != 1 || len(opened) != 5 {
			t.Errorf("they are asked as %v, warned of %q, opened %v", got, warned, opened)
		}
	})
}

// TestCancelledOpening wants that it does not count as a failure of the substituter.
func TestCancelledOpening(t *testing.T) {
	s := New(Config{Dir: dir, URIs: []string{"a"}, Open: func(ctx context.Context, uri string) (*Substituter, error) {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		return &Substituter{Name: uri, Store: storetest.NewMemory(dir)}, nil
	}})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Substituters(ctx, func(text string) { t.Error(text) }); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	var warned []string
	if got := names(t, s, &warned); len(got) != 1 || len(warned) > 0 {
		t.Errorf("%v, warned of %q", got, warned)
	}
}

func TestAsk(t *testing.T) {
	k, err := sign.GenerateKey("test-1")
	if err != nil {
		t.Fatal(err)
	}
	there := storetest.NewMemory(dir)
	plain, signed, text := storetest.Built(t, dir, "plain", false), storetest.Built(t, dir, "signed", false), storetest.Text(t, dir, "text", "text")
	signature, err := k.SignObject(dir, &signed.Info)
	if err != nil {
		t.Fatal(err)
	}
	signed.Info.Signatures = []string{signature}
	storetest.Add(t, there, plain, signed, text)
	u := &Substituter{Name: "there", Store: there}
	careful := New(Config{Dir: dir, RequireSignatures: true, Keys: sign.NewKeys(k.Public())})
	for _, tt := range []struct {
		name   string
		set    *Set
		u      *Substituter
		p      nix.StorePath
		want   error
		checks bool
	}{
		{"signed", careful, u, signed.Info.Path, nil, true},
		{"content-addressed", careful, u, text.Info.Path, nil, true},
		{"not signed", careful, u, plain.Info.Path, ErrNotSigned, false},
		{"not signed, trusted", careful, &Substituter{Store: there, Trusted: true}, plain.Info.Path, nil, false},
		{"nobody wants signatures", New(Config{Dir: dir}), u, plain.Info.Path, nil, false},
		{"none", careful, u, "00000000000000000000000000000000-none", store.ErrNotFound, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o, err := tt.set.Ask(t.Context(), tt.u, tt.p, nix.ContentAddress{})
			if !errors.Is(err, tt.want) {
				t.Fatalf("error %v", err)
			}
			if err == nil && (o.Info.Path != tt.p || o.CheckSignatures != tt.checks) {
				t.Errorf("%+v", o)
			}
		})
	}
}

// TestOtherDirectory fetches from stores whose objects have other paths.
func TestOtherDirectory(t *testing.T) {
	const other = nix.StoreDir("/other/store")
	there := storetest.NewMemory(other)
	leaf, built := storetest.Text(t, other, "leaf", "text"), storetest.Built(t, other, "built", false)
	branch := storetest.Text(t, other, "branch", "text", leaf.Info.Path)
	storetest.Add(t, there, leaf, built, branch)
	s := New(Config{Dir: dir, RequireSignatures: true})
	u := &Substituter{Name: "there", Store: there}

	here := storetest.Text(t, dir, "leaf", "text")
	o, err := s.Ask(t.Context(), u, here.Info.Path, here.Info.CA)
	if err != nil {
		t.Fatal(err)
	}
	target := storetest.NewMemory(dir)
	if err := store.Copy(t.Context(), o, target, []nix.StorePath{here.Info.Path}, store.CopyOptions{CheckSignatures: o.CheckSignatures}); err != nil {
		t.Fatal(err)
	}
	var archive bytes.Buffer
	if err := target.NAR(t.Context(), here.Info.Path, &archive); err != nil || !bytes.Equal(archive.Bytes(), leaf.NAR) {
		t.Errorf("another archive, %v", err)
	}
	if _, err := s.Ask(t.Context(), u, here.Info.Path, nix.ContentAddress{}); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("without a content address: %v", err)
	}
	if _, err := s.Ask(t.Context(), u, branch.Info.Path, branch.Info.CA); err == nil {
		t.Error("what has references was found by another name")
	}
	if _, err := o.PathInfo(t.Context(), leaf.Info.Path); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("an offer of something else: %v", err)
	}
}
