package main

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/nar"
	"github.com/kilnbuild/kiln/store"
	"github.com/kilnbuild/kiln/store/local"
)

// A chore is work on a store that is not building.
type chore struct {
	store string // a seed, of which each measurement has a copy unless reads is set
	reads bool   // the work changes nothing
	env   []string
	// nix and kiln are the words after the program, which for Nix is program, or
	// nix-store if that is "", and for sh the same for kiln.
	program   string
	nix, kiln []string
	// result is what must be the same for all: of what was printed, and of the store.
	result func(store string, stdout []byte) (map[string]string, error)
	close  func()
}

// measureChore is measure for an item with a chore.
func (b *bench) measureChore(it item, subjects []*subject) row {
	r := row{item: it, unit: 1, units: 1, costs: map[string][]cost{}}
	c, err := it.chore(b, it.scaled(b.scale))
	if err != nil {
		r.failure = fmt.Errorf("fixture: %w", err)
		return r
	}
	defer removeTree(c.store)
	if c.close != nil {
		defer c.close()
	}
	var want map[string]string
	for round := range min(b.rounds, max(1, it.rounds)) {
		for i := range subjects {
			s := subjects[(i+round)%len(subjects)]
			cost, got, err := b.doChore(s, c)
			if err == nil && want != nil && !maps.Equal(want, got) {
				err = fmt.Errorf("the result is not the other program's: %d instead of %d", len(got), len(want))
			}
			if err != nil {
				r.failure = fmt.Errorf("%s: %w", s.name, err)
				return r
			}
			want = got
			r.costs[s.name] = append(r.costs[s.name], cost)
			fmt.Fprintf(os.Stderr, "%-12s round %d %-10s %v\n", it.name, round+1, s.name, cost.Wall)
		}
	}
	return r
}

func (b *bench) doChore(s *subject, c *chore) (cost, map[string]string, error) {
	dir := c.store
	if !c.reads {
		var remove func()
		var err error
		if dir, remove, err = b.freshCopy(c.store); err != nil {
			return cost{}, nil, err
		}
		defer remove()
	}
	program, rest := s.program[0], c.nix
	if s.isKiln() {
		rest = c.kiln
	}
	if c.program != "" && (!s.isKiln() || c.program == "sh") {
		program = c.program
	}
	words := append([]string{program}, rest...)
	for i, w := range words {
		words[i] = strings.ReplaceAll(w, "@store@", dir)
	}
	var stdout bytes.Buffer
	spent, err := b.cost(s.root, c.env, &stdout, words...)
	if err != nil {
		return cost{}, nil, err
	}
	result, err := c.result(dir, stdout.Bytes())
	return spent, result, err
}

func (s *subject) isKiln() bool { return s.program[1] == "build" }

// smallObject adds an object of a directory and two files.
func smallObject(st *local.Store, name string, refs ...nix.StorePath) (nix.StorePath, error) {
	p, err := nix.MakeStorePath(st.Dir(), "output:out", nix.HashBytes(nix.SHA256, []byte(name)), name)
	if err != nil {
		return "", err
	}
	var archive bytes.Buffer
	w := nar.NewWriter(&archive, nar.Limits{})
	text := []byte(strings.Repeat(name, 20))
	for _, h := range []nar.Header{
		{Type: nar.Directory},
		{Name: "a", Depth: 1, Type: nar.Regular, Size: int64(len(text))},
		{Name: "b", Depth: 1, Type: nar.Regular, Size: int64(len(text))},
	} {
		if err := w.WriteHeader(h); err != nil {
			return "", err
		}
		if h.Type == nar.Regular {
			if _, err := w.Write(text); err != nil {
				return "", err
			}
		}
	}
	if err := w.Close(); err != nil {
		return "", err
	}
	info := nix.PathInfo{Path: p, References: slices.Sorted(slices.Values(refs)),
		NARHash: nix.HashBytes(nix.SHA256, archive.Bytes()), NARSize: int64(archive.Len())}
	return p, st.Add(context.Background(), &info, &archive, store.AddOptions{})
}

// chainLength is how many objects lead from one to the next in the garbage.
const chainLength = 10

// garbage makes a store of n dead objects and a quarter as many live ones, in chains.
func garbage(b *bench, n int) (*chore, error) {
	c := &chore{
		store: b.path("seed-garbage"),
		nix:   []string{"--store", "@store@", "--gc"},
		kiln:  []string{"--store", "@store@", "gc"},
		result: func(store string, _ []byte) (map[string]string, error) {
			return b.hashes(store)
		},
	}
	opts := local.ChrootOptions(c.store)
	opts.FsyncMetadata = false
	st, err := local.Open(context.Background(), opts)
	if err != nil {
		return nil, err
	}
	defer st.Close()
	roots := filepath.Join(st.StateDir(), "gcroots", "bench")
	if err := os.MkdirAll(roots, 0o755); err != nil {
		return nil, err
	}
	live := n / 4
	var last []nix.StorePath
	for i := range n + live {
		p, err := smallObject(st, "object-"+strconv.Itoa(i), last...)
		if err != nil {
			return nil, err
		}
		last = []nix.StorePath{p}
		if i%chainLength != chainLength-1 {
			continue
		}
		last = nil
		if i < live {
			if err := os.Symlink(st.Dir().Join(p), filepath.Join(roots, strconv.Itoa(i))); err != nil {
				return nil, err
			}
		}
	}
	return c, st.Close()
}

// mappedFiles is how many files each process maps.
const mappedFiles = 50

// mappings makes n processes that each map files of a store.
func mappings(b *bench, n int) (*chore, error) {
	dir := b.path("seed-mappings")
	c := &chore{
		store: dir, reads: true,
		env:  []string{"NIX_STORE_DIR=" + dir + "/store", "NIX_STATE_DIR=" + dir + "/state", "NIX_LOG_DIR=" + dir + "/log"},
		nix:  []string{"--gc", "--print-roots"},
		kiln: []string{"--store", "local", "gc", "roots"},
		result: func(_ string, stdout []byte) (map[string]string, error) {
			found := map[string]string{}
			for line := range bytes.Lines(stdout) {
				if _, path, ok := bytes.Cut(bytes.TrimSpace(line), []byte(" -> ")); ok {
					found[string(path)] = "root"
				}
			}
			if len(found) != mappedFiles {
				return nil, fmt.Errorf("%d roots instead of %d", len(found), mappedFiles)
			}
			return found, nil
		},
	}
	st, err := local.Open(context.Background(), local.Options{StoreDir: nix.StoreDir(dir + "/store"), StateDir: dir + "/state", LogDir: dir + "/log", UseSQLiteWAL: true})
	if err != nil {
		return nil, err
	}
	defer st.Close()
	var files []string
	for i := range mappedFiles {
		p, err := smallObject(st, "library-"+strconv.Itoa(i))
		if err != nil {
			return nil, err
		}
		files = append(files, st.RealPath(p)+"/a")
	}
	if err := st.Close(); err != nil {
		return nil, err
	}
	c.close, err = manyProcesses(n, files)
	return c, err
}
