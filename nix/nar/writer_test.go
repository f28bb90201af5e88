package nar

import (
	"bytes"
	"errors"
	"io"
	"math"
	"strings"
	"testing"
	"testing/iotest"
)

func TestWriterRefusesMisuse(t *testing.T) {
	reg := func(name string, depth int, size int64) Header {
		return Header{Name: name, Depth: depth, Type: Regular, Size: size}
	}
	sub := func(name string, depth int) Header { return Header{Name: name, Depth: depth, Type: Directory} }
	lnk := func(name string, depth int, target string) Header {
		return Header{Name: name, Depth: depth, Type: Symlink, Target: target}
	}
	for name, c := range map[string]struct {
		steps  []any // Header, or content as a string
		reason string
	}{
		"nothing":             {nil, "no root"},
		"named root":          {[]any{reg("a", 0, 0)}, "root has a name"},
		"deep root":           {[]any{reg("", 1, 0)}, "root has a name or a depth"},
		"two roots":           {[]any{reg("", 0, 0), reg("", 0, 0)}, "depth 0"},
		"two roots, dirs":     {[]any{sub("", 0), sub("", 0)}, "depth 0"},
		"entry of a file":     {[]any{reg("", 0, 0), reg("a", 1, 0)}, "0 directories are open"},
		"entry of a symlink":  {[]any{lnk("", 0, "t"), reg("a", 1, 0)}, "0 directories are open"},
		"too deep":            {[]any{sub("", 0), reg("a", 2, 0)}, "depth 2"},
		"closed before":       {[]any{sub("", 0), sub("a", 1), reg("b", 1, 0), reg("c", 2, 0)}, "depth 2"},
		"negative depth":      {[]any{sub("", 0), reg("a", -1, 0)}, "depth -1"},
		"unsorted":            {[]any{sub("", 0), reg("b", 1, 0), reg("a", 1, 0)}, "not sorted"},
		"duplicate":           {[]any{sub("", 0), sub("a", 1), reg("x", 2, 0), reg("a", 1, 0)}, "not sorted"},
		"empty name":          {[]any{sub("", 0), reg("", 1, 0)}, "empty name"},
		"slash":               {[]any{sub("", 0), reg("a/b", 1, 0)}, "invalid name"},
		"dots":                {[]any{sub("", 0), reg("..", 1, 0)}, "invalid name"},
		"NUL":                 {[]any{sub("", 0), reg("a\x00", 1, 0)}, "invalid name"},
		"long name":           {[]any{sub("", 0), reg(strings.Repeat("n", 256), 1, 0)}, "name of 256 bytes"},
		"empty target":        {[]any{lnk("", 0, "")}, "empty symlink target"},
		"long target":         {[]any{lnk("", 0, strings.Repeat("t", 4096))}, "target of 4096 bytes"},
		"NUL in target":       {[]any{lnk("", 0, "a\x00b")}, "NUL in symlink target"},
		"no type":             {[]any{Header{}}, "no such type"},
		"unknown type":        {[]any{Header{Type: 7}}, "no such type"},
		"directory with size": {[]any{Header{Type: Directory, Size: 1}}, "has no size"},
		"executable symlink":  {[]any{Header{Type: Symlink, Executable: true, Target: "x"}}, "not executable"},
		"file with target":    {[]any{Header{Type: Regular, Target: "x"}}, "has no target"},
		"negative size":       {[]any{reg("", 0, -1)}, "size -1"},
		"overflowing size":    {[]any{reg("", 0, math.MaxInt64)}, "content of 9223372036854775807 bytes"},
		"short content":       {[]any{reg("", 0, 5), "1234"}, "1 bytes are missing"},
		"no content":          {[]any{sub("", 0), reg("a", 1, 5), reg("b", 1, 0)}, "5 bytes are missing"},
		"long content":        {[]any{reg("", 0, 5), "123456"}, "longer than said"},
		"long in two pieces":  {[]any{reg("", 0, 5), "12345", "6"}, "longer than said"},
		"large, too long":     {[]any{reg("", 0, bufferSize), strings.Repeat("x", bufferSize+1)}, "longer than said"},
		"content before all":  {[]any{"x"}, "longer than said"},
		"content of a dir":    {[]any{sub("", 0), "x"}, "longer than said"},
		"content of a link":   {[]any{lnk("", 0, "t"), "x"}, "longer than said"},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			w := NewWriter(&out, Limits{})
			var err error
			for _, step := range c.steps {
				switch step := step.(type) {
				case Header:
					err = w.WriteHeader(step)
				case string:
					_, err = io.WriteString(w, step)
				}
				if err != nil {
					break
				}
			}
			closeErr := w.Close()
			if err != nil && closeErr != err {
				t.Errorf("the error does not stay: %v, then %v", err, closeErr)
			}
			if closeErr == nil || !strings.Contains(closeErr.Error(), c.reason) {
				t.Errorf("got %v, want an error with %q", closeErr, c.reason)
			}
			if _, err := Skip(&out, Limits{}); err == nil {
				t.Error("what was written is an archive")
			}
		})
	}
}

func TestWriterAfterClose(t *testing.T) {
	w := NewWriter(io.Discard, Limits{})
	must(t, w.WriteHeader(Header{Type: Regular, Size: 1}))
	_, err := w.Write([]byte("x"))
	must(t, err, w.Close(), w.Close())
	if w.Size() != int64(len(root(file("x")))) {
		t.Errorf("size %d", w.Size())
	}
	if err := w.WriteHeader(Header{Type: Directory}); err == nil {
		t.Error("WriteHeader after Close succeeded")
	}
	if _, err := w.Write([]byte("x")); err == nil {
		t.Error("Write after Close succeeded")
	}
}

type failingWriter struct{ left int }

func (w *failingWriter) Write(p []byte) (int, error) {
	if w.left -= len(p); w.left < 0 {
		return 0, iotest.ErrTimeout
	}
	return len(p), nil
}

func TestWriterPassesErrors(t *testing.T) {
	archive := valid["large content"]
	for _, left := range []int{0, bufferSize, 2 * bufferSize, len(archive) - 1} {
		if _, err := CopyArchive(&failingWriter{left}, strings.NewReader(archive), Limits{}); !errors.Is(err, iotest.ErrTimeout) {
			t.Errorf("writer that fails after %d bytes: %v", left, err)
		}
	}
}

// TestWriterPieces writes content in pieces around the size of the buffer.
func TestWriterPieces(t *testing.T) {
	text := strings.Repeat("0123456789abcdef", 3*bufferSize/16+1)
	want := root(dir(named("a", file(text)), named("b", file(text[1:]))))
	for _, piece := range []int{1000, bufferSize - 200, bufferSize - 1, bufferSize, bufferSize + 1, len(text)} {
		var out bytes.Buffer
		w := NewWriter(&out, Limits{})
		must(t, w.WriteHeader(Header{Type: Directory}))
		for _, f := range []struct{ name, text string }{{"a", text}, {"b", text[1:]}} {
			must(t, w.WriteHeader(Header{Name: f.name, Depth: 1, Type: Regular, Size: int64(len(f.text))}))
			for p := f.text; len(p) > 0; p = p[min(piece, len(p)):] {
				_, err := io.WriteString(w, p[:min(piece, len(p))])
				must(t, err)
			}
		}
		must(t, w.Close())
		if out.String() != want {
			t.Errorf("in pieces of %d: the archive differs", piece)
		}
	}
}
