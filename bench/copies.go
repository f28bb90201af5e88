package main

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/nar"
	"github.com/kilnbuild/kiln/store/local"
	"github.com/kilnbuild/kiln/wire"
	"github.com/kilnbuild/kiln/wire/serve"
)

// copies makes a store with an object that refers to n others, to be copied into an empty
// one.
func copies(b *bench, n int) (*chore, error) {
	from, empty := b.path("source-copies"), b.path("seed-copies")
	if err := os.MkdirAll(empty, 0o755); err != nil {
		return nil, err
	}
	opts := local.ChrootOptions(from)
	opts.FsyncMetadata = false
	st, err := local.Open(context.Background(), opts)
	if err != nil {
		return nil, err
	}
	defer st.Close()
	var all []nix.StorePath
	for i := range n {
		p, err := smallObject(st, fmt.Sprintf("object-%d", i))
		if err != nil {
			return nil, err
		}
		all = append(all, p)
	}
	top, err := smallObject(st, "top", all...)
	if err != nil {
		return nil, err
	}
	path := st.Dir().Join(top)
	return &chore{
		store:   empty,
		program: "nix",
		nix:     []string{"copy", "--no-check-sigs", "--from", "local?root=" + from, "--to", "local?root=@store@", path},
		kiln:    []string{"copy", "--quiet", "--no-check-sigs", "--from", from, "--to", "@store@", path},
		result:  func(store string, _ []byte) (map[string]string, error) { return b.hashes(store) },
		close:   func() { removeTree(from) },
	}, st.Close()
}

// served makes what a client of nix-store --serve says that adds an object of n MiB, or
// with dump one that reads it back.
func served(b *bench, n int, dump bool) (*chore, error) {
	name := map[bool]string{false: "add", true: "dump"}[dump]
	c := &chore{store: b.path("seed-serve-" + name), program: "sh"}
	if err := os.MkdirAll(c.store, 0o755); err != nil {
		return nil, err
	}
	said, info, err := b.addition(n)
	if err != nil {
		return nil, err
	}
	if dump {
		// What is to be read is there before the clock starts.
		if _, err := b.output("sh", "-c", fmt.Sprintf("nix-store --serve --write --store 'local?root=%s' <'%s'", c.store, said)); err != nil {
			return nil, err
		}
		if err := writeStream(said, &serve.DumpStorePath{Path: info.Path}, nil); err != nil {
			return nil, err
		}
		c.reads = true
	}
	// The archive goes through a pipe, as to ssh.
	c.nix = []string{"-c", fmt.Sprintf("cat '%s' | nix-store --serve --write --store 'local?root=@store@' | cat >/dev/null", said)}
	c.kiln = []string{"-c", fmt.Sprintf("cat '%s' | '%s' daemon --serve --write --store '@store@' | cat >/dev/null", said, b.kiln)}
	c.result = func(store string, _ []byte) (map[string]string, error) { return b.hashes(store) }
	c.close = func() { os.Remove(said) }
	return c, nil
}

func servedAdd(b *bench, n int) (*chore, error)  { return served(b, n, false) }
func servedDump(b *bench, n int) (*chore, error) { return served(b, n, true) }

// addition writes a file with what a client says that adds an object of n MiB, and gives
// its name.
func (b *bench) addition(n int) (string, *nix.PathInfo, error) {
	write := func(w io.Writer) error {
		out := nar.NewWriter(w, nar.Limits{})
		size := int64(n) << 20
		err := out.WriteHeader(nar.Header{Type: nar.Regular, Size: size})
		if err == nil {
			_, err = io.CopyN(out, rand.NewChaCha8([32]byte([]byte("the same bytes in every bench run")[:32])), size)
		}
		if err == nil {
			err = out.Close()
		}
		return err
	}
	sum := nix.SHA256.New()
	counted := &counter{}
	if err := write(io.MultiWriter(sum, counted)); err != nil {
		return "", nil, err
	}
	path, err := nix.MakeStorePath(nix.DefaultStoreDir, "output:out", nix.HashBytes(nix.SHA256, fmt.Append(nil, n)), "large")
	if err != nil {
		return "", nil, err
	}
	info := &nix.PathInfo{Path: path, NARHash: nix.SumHash(nix.SHA256, sum), NARSize: counted.n}
	said := b.path(fmt.Sprintf("said-%d", n))
	return said, info, writeStream(said, &serve.AddToStoreNar{Info: info}, write)
}

type counter struct{ n int64 }

func (c *counter) Write(p []byte) (int, error) {
	c.n += int64(len(p))
	return len(p), nil
}

// writeStream writes what a client says: its greeting, one request and the body of that.
func writeStream(name string, r serve.Request, body func(io.Writer) error) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	defer f.Close()
	// What the server says meanwhile, nobody needs to hear.
	e := serve.NewEncoder(f, nix.DefaultStoreDir)
	v := serve.Version(2<<8 | 7)
	greeting := serve.NewDecoder(strings.NewReader(serverGreeting(v)), nix.DefaultStoreDir, wire.Limits{})
	if err := serve.Handshake(greeting, e, v); err != nil {
		return err
	}
	serve.WriteRequest(e, r)
	if body != nil {
		if err := body(e); err != nil {
			return err
		}
	}
	if err := e.Flush(); err != nil {
		return err
	}
	return f.Close()
}

// serverGreeting is how a server of that version greets.
func serverGreeting(v serve.Version) string {
	var said strings.Builder
	w := wire.NewWriter(&said)
	w.Uint64(0x5452eecb)
	w.Uint64(uint64(v))
	w.Flush()
	return said.String()
}

// sizesItem is the name under which sizesNote is asked for.
const sizesItem = "serve-sizes"

// sizesNote measures the peak memory of kiln's server for objects of several sizes, in both
// directions. It tells whether memory stays the same, within what any program's memory
// differs by from one run to the next.
func (b *bench) sizesNote(kiln string, sizes []int) (string, bool, error) {
	const spread = 6 << 20 // bytes
	var text strings.Builder
	fmt.Fprintf(&text, "\n%-12s  %12s  %12s\n", "serve, MiB", "add, MiB RSS", "dump, MiB RSS")
	var least, most int64
	for _, n := range sizes {
		said, info, err := b.addition(n)
		if err != nil {
			return "", false, err
		}
		dir := b.path(fmt.Sprintf("sizes-%d", n))
		var rss [2]int64
		for i := range rss {
			if i == 1 {
				if err := writeStream(said, &serve.DumpStorePath{Path: info.Path}, nil); err != nil {
					return "", false, err
				}
			}
			c, err := b.cost("", nil, nil, "sh", "-c", fmt.Sprintf("cat '%s' | '%s' daemon --serve --write --store '%s' | cat >/dev/null", said, kiln, dir))
			if err != nil {
				return "", false, err
			}
			rss[i] = c.RSS
			if least == 0 || c.RSS < least {
				least = c.RSS
			}
			most = max(most, c.RSS)
		}
		if _, err := os.Stat(filepath.Join(dir, "nix/store", string(info.Path))); err != nil {
			return "", false, err
		}
		removeTree(dir)
		os.Remove(said)
		fmt.Fprintf(&text, "%-12d  %12.1f  %12.1f\n", n, mebibytes(rss[0]), mebibytes(rss[1]))
	}
	ok := most-least <= spread
	fmt.Fprintf(&text, "%s: memory is the same whatever the size: %s\n", sizesItem, met(ok))
	return text.String(), ok, nil
}
