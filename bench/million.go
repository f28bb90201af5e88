package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/store/local"
)

// millionItem measures kiln alone: how long it takes to say what is alive among a
// million objects, and how much memory.
const millionItem = "gc-million"

const (
	manyObjects = 1_000_000
	manyRefs    = 3       // of each object
	mostMemory  = 1 << 30 // bytes
)

// millionNote is the time and memory for a quarter of the objects, and for all.
func (b *bench) millionNote(kiln string) (string, bool, error) {
	root := b.path("seed-million")
	defer removeTree(root)
	opts := local.ChrootOptions(root)
	opts.FsyncMetadata = false
	st, err := local.Open(context.Background(), opts)
	if err != nil {
		return "", false, err
	}
	defer st.Close()
	var text strings.Builder
	fmt.Fprintf(&text, "\n%-42s  %10s  %10s\n", fmt.Sprintf("kiln store du, %d references each", manyRefs), "wall ms", "RSS MiB")
	all := max(8, int(manyObjects*b.scale))
	var paths []nix.StorePath
	ok := true
	for _, n := range []int{all / 4, all} {
		if paths, err = rows(st, paths, n); err != nil {
			return "", false, err
		}
		// All that has a root above it is alive.
		link := filepath.Join(st.StateDir(), "gcroots", strconv.Itoa(n))
		if err := os.Symlink(st.Dir().Join(paths[n-1]), link); err != nil {
			return "", false, err
		}
		c, err := b.cost("", nil, nil, kiln, "--store", root, "store", "du")
		if err != nil {
			return "", false, err
		}
		fmt.Fprintf(&text, "%-42s  %10.0f  %10.0f\n", fmt.Sprintf("%d objects", n), milliseconds(c.Wall, 1), mebibytes(c.RSS))
		ok = c.RSS <= mostMemory
	}
	fmt.Fprintf(&text, "%s: aim of %d MiB at most: %s\n", millionItem, mostMemory>>20, met(ok))
	return text.String(), ok, nil
}

// rows registers objects without files until there are n.
func rows(st *local.Store, paths []nix.StorePath, n int) ([]nix.StorePath, error) {
	const part = 5000
	hash := nix.HashBytes(nix.SHA256, nil)
	for len(paths) < n {
		var objects []local.Registration
		for range min(part, n-len(paths)) {
			i := len(paths)
			name := "object-" + strconv.Itoa(i)
			p, err := nix.MakeStorePath(st.Dir(), "output:out", nix.HashBytes(nix.SHA256, []byte(name)), name)
			if err != nil {
				return nil, err
			}
			info := nix.PathInfo{Path: p, NARHash: hash, NARSize: 1, RegistrationTime: time.Unix(1, 0)}
			for k := 1; k <= manyRefs && i > 0; k++ {
				info.References = append(info.References, paths[(i-1)*k/manyRefs])
			}
			paths = append(paths, p)
			objects = append(objects, local.Registration{Info: info})
		}
		if err := st.Register(context.Background(), objects); err != nil {
			return nil, err
		}
	}
	return paths, nil
}
