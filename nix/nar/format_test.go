package nar

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/kilnbuild/kiln/internal/rmtree"
)

// Archives in tests are written down word by word, independently of Writer.

// word is a word of the format: length, bytes, padding.
func word(s string) string {
	b := binary.LittleEndian.AppendUint64(nil, uint64(len(s)))
	b = append(b, s...)
	return string(append(b, make([]byte, -len(s)&7)...))
}

func words(all ...string) string {
	var b strings.Builder
	for _, s := range all {
		b.WriteString(word(s))
	}
	return b.String()
}

func root(node string) string { return word("nix-archive-1") + node }
func file(text string) string { return words("(", "type", "regular", "contents", text, ")") }
func tool(text string) string {
	return words("(", "type", "regular", "executable", "", "contents", text, ")")
}
func link(target string) string { return words("(", "type", "symlink", "target", target, ")") }
func dir(entries ...string) string {
	return words("(", "type", "directory") + strings.Join(entries, "") + word(")")
}
func named(name, node string) string {
	return words("entry", "(", "name", name, "node") + node + word(")")
}

// sample has each construct of the format.
var sample = root(dir(
	named(".hidden", file("")),
	named("A~nix~case~hack~1", file("an ordinary name")),
	named("bin", dir(named("tool", tool("#!/bin/sh\n")), named("tool-link", link("tool")))),
	named("eight", file("12345678")),
	named("empty", dir()),
	named("last", dir(named("deep", dir(named("er", dir(named("est", file("x")))))))),
	named("link", link("../outside")),
	named("\xff\xfe", tool("")),
))

var valid = map[string]string{
	"sample":         sample,
	"file":           root(file("hi\n")),
	"empty file":     root(file("")),
	"executable":     root(tool("hi\n")),
	"symlink":        root(link("t")),
	"longest target": root(link(strings.Repeat("t", MaxTarget))),
	"directory":      root(dir()),
	"longest name":   root(dir(named(strings.Repeat("n", MaxName), file("")))),
	"odd names":      root(dir(named("\n", file("")), named("!", file("")), named("(", dir()), named("...", file("")), named("..a", file("")), named(`\`, file("")))),
	"word as names":  root(dir(named(")", file(")")), named("entry", dir(named("node", link("name")))), named("type", file("")))),
	"large content":  root(file(strings.Repeat("large ", 300_000))),
	"wide":           root(dir(wide(100)...)),
}

func wide(n int) []string {
	entries := make([]string, n)
	for i := range entries {
		name := []byte("00000")
		for k, v := 4, i; k >= 0; k, v = k-1, v/10 {
			name[k] = '0' + byte(v%10)
		}
		entries[i] = named(string(name), file(strings.Repeat("x", i%20)))
	}
	return entries
}

// evil are archives that must be refused, with a part of the reason.
var evil = map[string]struct{ archive, reason string }{
	"duplicate":             {root(dir(named("a", file("1")), named("a", file("2")))), `not sorted: "a" after "a"`},
	"unsorted":              {root(dir(named("b", file("")), named("a", file("")))), `not sorted: "a" after "b"`},
	"unsorted, bytes":       {root(dir(named("\xc3", file("")), named("a", file("")))), "not sorted"},
	"unsorted after dir":    {root(dir(named("b", dir(named("z", file("")))), named("a", file("")))), "not sorted"},
	"symlink, then dir":     {root(dir(named("a", link("/tmp")), named("a", dir(named("evil", file("")))))), "not sorted"},
	"symlink, then file":    {root(dir(named("a", link("/etc/passwd")), named("a", file("evil")))), "not sorted"},
	"dir, then symlink":     {root(dir(named("a", dir()), named("a", link("..")))), "not sorted"},
	"nested duplicate":      {root(dir(named("d", dir(named("x", link("/")), named("x", dir()))))), "not sorted"},
	"dot":                   {root(dir(named(".", file("")))), `invalid name "."`},
	"dot dot":               {root(dir(named("..", dir(named("evil", file("")))))), `invalid name ".."`},
	"slash":                 {root(dir(named("a/b", file("")))), `invalid name "a/b"`},
	"up":                    {root(dir(named("../evil", file("")))), "invalid name"},
	"absolute":              {root(dir(named("/evil", file("")))), "invalid name"},
	"slash only":            {root(dir(named("/", file("")))), "invalid name"},
	"trailing slash":        {root(dir(named("a/", dir()))), "invalid name"},
	"NUL in name":           {root(dir(named("a\x00b", file("")))), "invalid name"},
	"NUL as name":           {root(dir(named("\x00", file("")))), "invalid name"},
	"empty name":            {root(dir(named("", file("")))), "empty name"},
	"long name":             {root(dir(named(strings.Repeat("n", 256), file("")))), "name of 256 bytes"},
	"very long name":        {root(dir(named(strings.Repeat("n", 1_000_000), file("")))), "name of 1000000 bytes"},
	"empty target":          {root(link("")), "empty symlink target"},
	"NUL in target":         {root(dir(named("l", link("a\x00b")))), "NUL in symlink target"},
	"long target":           {root(link(strings.Repeat("t", 4096))), "target of 4096 bytes"},
	"no contents":           {root(words("(", "type", "regular", ")")) + "what follows", `expected "executable" or "contents", found ")"`},
	"no contents, tool":     {root(words("(", "type", "regular", "executable", "", ")")) + "what follows", `expected "contents", found ")"`},
	"executable twice":      {root(words("(", "type", "regular", "executable", "", "executable", "", "contents", "", ")")), `expected "contents"`},
	"executable after":      {root(words("(", "type", "regular", "contents", "", "executable", "", ")")), `expected ")"`},
	"executable with value": {root(words("(", "type", "regular", "executable", "1", "contents", "", ")")), "executable marker has a value of 1 bytes"},
	"contents twice":        {root(words("(", "type", "regular", "contents", "a", "contents", "b", ")")), `expected ")"`},
	"no target":             {root(words("(", "type", "symlink", ")", "", "")), `expected "target", found ")"`},
	"target of a file":      {root(words("(", "type", "regular", "target", "x", ")")), `expected "executable" or "contents"`},
	"contents of a link":    {root(words("(", "type", "symlink", "contents", "x", ")")), `expected "target"`},
	"unknown type":          {root(words("(", "type", "socket", ")", "", "", "")), `found "socket"`},
	"unknown field":         {root(words("(", "type", "regular", "mtime", "1", "contents", "", ")")), `found "mtime"`},
	"type missing":          {root(words("(", "contents", "12345678", ")", "", "")), `expected "type", found "contents"`},
	"name missing":          {root(words("(", "type", "directory", "entry", "(", "node")) + file("") + words(")", ")"), `expected "name", found "node"`},
	"node missing":          {root(words("(", "type", "directory", "entry", "(", "name", "a", ")", ")")) + strings.Repeat("\x00", 64), `expected "node", found ")"`},
	"two nodes":             {root(words("(", "type", "directory", "entry", "(", "name", "a", "node") + file("") + word("node") + file("") + words(")", ")")), `expected ")", found "node"`},
	"magic":                 {word("nix-archive-2") + file("") + word(")"), "doesn't look like a Nix archive"},
	"other file":            {strings.Repeat("#!/bin/sh\n", 10), "doesn't look like a Nix archive"},
	"zeros":                 {strings.Repeat("\x00", 200), "doesn't look like a Nix archive"},
	"no root":               {word("nix-archive-1") + words(")", "type", "regular", "contents", ""), `expected "("`},
	"long word":             {root(words("(", "type", strings.Repeat("x", 1<<20))), "word of 1048576 bytes (at most 32 are allowed)"},
	"word of 33 bytes":      {root(words("(", strings.Repeat("x", 33), "")), "word of 33 bytes"},
	"padding of a name":     {strings.Replace(root(dir(named("abc", file("")))), "abc\x00", "abc\x01", 1), "padding of a name"},
	"padding of a target":   {strings.Replace(root(link("abc")), "abc\x00", "abc\x01", 1), "padding of a symlink target"},
	"padding of content":    {strings.Replace(root(file("abc")), "abc\x00\x00\x00\x00\x00", "abc\x00\x00\x00\x00\x01", 1), "padding of content"},
	"padding of a word":     {strings.Replace(root(file("abc")), "type\x00", "type ", 1), `padding of "type"`},
	"padding of the magic":  {strings.Replace(root(file("abc")), "nix-archive-1\x00", "nix-archive-1\x01", 1), "doesn't look like"},
}

// readAll reads an archive to its end, and returns it as Writer writes it.
func readAll(r io.Reader, limits Limits) (again []byte, headers []Header, err error) {
	in := NewReader(r, limits)
	var out bytes.Buffer
	w := NewWriter(&out, limits)
	defer func() {
		if err != nil {
			w.abandon(err) // gives its buffer back: thousands of archives are read
		}
	}()
	for {
		h, err := in.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return nil, headers, err
		}
		headers = append(headers, h)
		if err := w.WriteHeader(h); err != nil {
			return nil, headers, err
		}
		if n, err := io.Copy(w, in); err != nil || n != h.Size {
			return nil, headers, errors.Join(err, errors.New("content of another size"))
		}
	}
	if err := w.Close(); err != nil {
		return nil, headers, err
	}
	if in.Offset() != int64(out.Len()) || w.Size() != in.Offset() {
		return nil, headers, errors.New("sizes differ")
	}
	return out.Bytes(), headers, nil
}

func must(t testing.TB, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// tempDir is a temporary directory in which restored trees can be left: their
// directories keep an ordinary user from deleting them plainly.
func tempDir(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	t.Cleanup(func() {
		if err := rmtree.RemoveTree(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}
