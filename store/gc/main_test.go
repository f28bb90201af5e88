package gc

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/kilnbuild/kiln/internal/rmtree"
	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/store"
	"github.com/kilnbuild/kiln/store/local"
	"github.com/kilnbuild/kiln/store/storetest"
	"go.uber.org/goleak"
)

// roleVar makes a process that a test starts play a part instead of testing.
const roleVar = "KILN_TEST_ROLE"

// roles are the parts, by name. They get the arguments of the process.
var roles = map[string]func(args []string) error{}

func TestMain(m *testing.M) {
	if role, ok := roles[os.Getenv(roleVar)]; ok {
		if err := role(os.Args[1:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

// scratch is t.TempDir for what has read-only directories in it.
func scratch(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	t.Cleanup(func() {
		entries, _ := os.ReadDir(dir)
		for _, e := range entries {
			if err := rmtree.RemoveTree(filepath.Join(dir, e.Name())); err != nil {
				t.Error(err)
			}
		}
	})
	return dir
}

// options are those of all stores here: what makes them slow has tests of its own.
func options(root string) local.Options {
	opts := local.ChrootOptions(root)
	opts.FsyncMetadata, opts.ReservedSpace = false, 0
	return opts
}

// open opens the store with a root, and closes it with the test.
func open(t testing.TB, root string, change ...func(*local.Options)) *local.Store {
	t.Helper()
	opts := options(root)
	opts.Warn = func(err error) { t.Errorf("warning: %v", err) }
	for _, f := range change {
		f(&opts)
	}
	st, err := local.Open(context.Background(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := st.Close(); err != nil {
			t.Error(err)
		}
	})
	return st
}

// add adds an object that is no temporary root of this process.
func add(t testing.TB, st *local.Store, name string, refs ...nix.StorePath) (p nix.StorePath) {
	t.Helper()
	adding(t, st, func(add addFunc) { p = add(name, refs...) })
	return p
}

// addFunc adds an object.
type addFunc func(name string, refs ...nix.StorePath) nix.StorePath

// adding adds objects by another opening of the store, which takes its temporary
// roots with it.
func adding(t testing.TB, st *local.Store, f func(add addFunc)) {
	t.Helper()
	other, err := local.Open(context.Background(), options(strings.TrimSuffix(st.RealDir(), "/nix/store")))
	if err != nil {
		t.Fatal(err)
	}
	f(func(name string, refs ...nix.StorePath) nix.StorePath {
		t.Helper()
		o := storetest.Built(t, st.Dir(), name, false, refs...)
		if err := other.Add(context.Background(), &o.Info, bytes.NewReader(o.NAR), store.AddOptions{}); err != nil {
			t.Fatal(err)
		}
		return o.Info.Path
	})
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}
}

// link makes a root.
func link(t testing.TB, st *local.Store, target string, names ...string) string {
	t.Helper()
	name := filepath.Join(append([]string{st.StateDir(), "gcroots"}, names...)...)
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(target, name); err != nil {
		t.Fatal(err)
	}
	return name
}

// reports collects problems.
type reports struct {
	mu  sync.Mutex
	all []Problem
}

func (r *reports) add(p Problem) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all = append(r.all, p)
}

// about tells whether somebody was told of something, by its name.
func (r *reports) about(name string) bool {
	return slices.ContainsFunc(r.all, func(p Problem) bool {
		return bytes.Contains([]byte(p.Error()), []byte(name))
	})
}

// valid gives the valid objects.
func valid(t testing.TB, st *local.Store) []nix.StorePath {
	t.Helper()
	var paths []nix.StorePath
	for p, err := range st.AllValidPaths(context.Background()) {
		if err != nil {
			t.Fatal(err)
		}
		paths = append(paths, p)
	}
	return paths
}

// entries are the names in the store directory, but for what stores have for
// themselves.
func entries(t testing.TB, st *local.Store) []string {
	t.Helper()
	var names []string
	if err := st.Entries(func(name string) error {
		if !strings.Contains(name, "-tmp-") {
			names = append(names, name)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	slices.Sort(names)
	return names
}
