package storetest

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/nar"
)

// Object is a store object with its archive.
type Object struct {
	Info nix.PathInfo
	NAR  []byte
}

// Text is an object of one file, whose path follows from its name, content and
// references.
func Text(t testing.TB, dir nix.StoreDir, name, content string, references ...nix.StorePath) Object {
	t.Helper()
	references = slices.Compact(slices.Sorted(slices.Values(references)))
	ca := nix.ContentAddress{Method: nix.Text, Hash: nix.HashBytes(nix.SHA256, []byte(content))}
	p, err := nix.MakeContentAddressedPath(dir, name, ca, nix.References{Others: references})
	if err != nil {
		t.Fatal(err)
	}
	o := archived(Archive(t, Node{Content: content}))
	o.Info.Path, o.Info.References, o.Info.CA = p, references, ca
	return o
}

// Built is an object as a builder makes it: its path follows from nothing, it is
// a tree with every kind of file, and it refers to the given objects and, if self
// is set, to itself.
func Built(t testing.TB, dir nix.StoreDir, name string, self bool, references ...nix.StorePath) Object {
	t.Helper()
	p, err := nix.MakeStorePath(dir, "output:out", nix.HashBytes(nix.SHA256, []byte(name)), name)
	if err != nil {
		t.Fatal(err)
	}
	if self {
		references = append(slices.Clone(references), p)
	}
	references = slices.Compact(slices.Sorted(slices.Values(references)))
	var text strings.Builder
	for _, r := range references {
		text.WriteString(dir.Join(r) + "\n")
	}
	o := archived(Archive(t, Node{Entries: []Node{
		{Name: "bin", Entries: []Node{
			{Name: "empty"},
			{Name: "run", Executable: true, Content: "#!/bin/sh\n" + text.String()},
		}},
		{Name: "lib", Target: "bin/../bin"},
		{Name: "name", Content: name},
		{Name: "none", Entries: []Node{}},
	}}))
	o.Info.Path, o.Info.References = p, references
	return o
}

func archived(archive []byte) Object {
	return Object{
		Info: nix.PathInfo{NARHash: nix.HashBytes(nix.SHA256, archive), NARSize: int64(len(archive))},
		NAR:  archive,
	}
}

// Node is a file of an archive: a directory if Entries is not nil, a symbolic
// link if Target is not empty, and else a regular file.
type Node struct {
	Name       string
	Entries    []Node // sorted by name
	Target     string
	Executable bool
	Content    string
}

// Archive is the archive of a tree.
func Archive(t testing.TB, root Node) []byte {
	t.Helper()
	var b bytes.Buffer
	w := nar.NewWriter(&b, nar.Limits{})
	if err := write(w, root, 0); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func write(w *nar.Writer, n Node, depth int) error {
	h := nar.Header{Name: n.Name, Depth: depth, Type: nar.Regular, Executable: n.Executable, Size: int64(len(n.Content))}
	switch {
	case n.Entries != nil:
		h = nar.Header{Name: n.Name, Depth: depth, Type: nar.Directory}
	case n.Target != "":
		h = nar.Header{Name: n.Name, Depth: depth, Type: nar.Symlink, Target: n.Target}
	}
	if err := w.WriteHeader(h); err != nil {
		return err
	}
	if h.Type == nar.Regular && h.Size > 0 {
		if _, err := w.Write([]byte(n.Content)); err != nil {
			return err
		}
	}
	for _, e := range n.Entries {
		if err := write(w, e, depth+1); err != nil {
			return err
		}
	}
	return nil
}

// EvilArchives are archives that no store may accept, by what is wrong with them
// (T05, T19, T20). Each but the truncated ones has its right hash and size.
func EvilArchives(t testing.TB) map[string][]byte {
	t.Helper()
	str := func(s string) string {
		return length(uint64(len(s))) + s + strings.Repeat("\x00", -len(s)&7)
	}
	words := func(list ...string) string {
		var b strings.Builder
		for _, s := range list {
			b.WriteString(str(s))
		}
		return b.String()
	}
	file := words("(", "type", "regular", "contents", "x", ")")
	link := words("(", "type", "symlink", "target", "/etc", ")")
	entry := func(name, node string) string { return words("entry", "(", "name", name, "node") + node + words(")") }
	dir := func(entries ...string) string {
		return words("(", "type", "directory") + strings.Join(entries, "") + words(")")
	}
	whole := func(node string) []byte { return []byte(words("nix-archive-1") + node) }

	evil := map[string][]byte{
		"empty":                     {},
		"not an archive":            []byte(strings.Repeat("nothing of the kind ", 10)),
		"cut off":                   whole(dir(entry("a", file)))[:150],
		"entry twice":               whole(dir(entry("a", file), entry("a", file))),
		"symlink, then a directory": whole(dir(entry("a", link), entry("a", dir(entry("passwd", file))))),
		"not sorted":                whole(dir(entry("b", file), entry("a", file))),
		"no contents":               whole(words("(", "type", "regular", ")")),
		"empty symlink target":      whole(words("(", "type", "symlink", "target", "", ")")),
		"NUL in a symlink target":   whole(words("(", "type", "symlink", "target", "a\x00b", ")")),
		"unknown type":              whole(words("(", "type", "fifo", ")")),
		"executable with a value":   whole(words("(", "type", "regular", "executable", "yes", "contents", "x", ")")),
		"padding":                   whole(strings.Replace(file, "x\x00", "x\x01", 1)),
		"huge contents":             whole(words("(", "type", "regular", "contents") + length(1<<40)),
		"overflowing contents":      whole(words("(", "type", "regular", "contents") + length(1<<64-1)),
		"huge name":                 whole(words("(", "type", "directory", "entry", "(", "name") + length(1<<40)),
		"deep":                      whole(strings.Repeat(words("(", "type", "directory", "entry", "(", "name", "d", "node"), 100_000)),
	}
	for _, name := range []string{"", ".", "..", "a/b", "../a", "/etc", "a\x00b", strings.Repeat("n", 256)} {
		evil["name "+strings.ToValidUTF8(name, "?")] = whole(dir(entry(name, file)))
	}
	return evil
}

// length is a number as archives have it.
func length(n uint64) string {
	var b [8]byte
	for i := range b {
		b[i] = byte(n >> (8 * i))
	}
	return string(b[:])
}
