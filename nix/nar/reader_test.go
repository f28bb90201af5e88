package nar

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
)

func TestReaderHeaders(t *testing.T) {
	in := NewReader(strings.NewReader(sample), Limits{})
	var got []string
	for {
		h, err := in.Next()
		if err == io.EOF {
			break
		}
		must(t, err)
		content, err := io.ReadAll(in)
		must(t, err)
		got = append(got, fmt.Sprintf("%d %s %v x=%v %d %q %q", h.Depth, in.Path(), h.Type, h.Executable, h.Size, h.Target, content))
	}
	want := []string{
		`0  directory x=false 0 "" ""`,
		`1 .hidden regular x=false 0 "" ""`,
		`1 A~nix~case~hack~1 regular x=false 16 "" "an ordinary name"`,
		`1 bin directory x=false 0 "" ""`,
		`2 bin/tool regular x=true 10 "" "#!/bin/sh\n"`,
		`2 bin/tool-link symlink x=false 0 "tool" ""`,
		`1 eight regular x=false 8 "" "12345678"`,
		`1 empty directory x=false 0 "" ""`,
		`1 last directory x=false 0 "" ""`,
		`2 last/deep directory x=false 0 "" ""`,
		`3 last/deep/er directory x=false 0 "" ""`,
		`4 last/deep/er/est regular x=false 1 "" "x"`,
		`1 link symlink x=false 0 "../outside" ""`,
		"1 \xff\xfe regular x=true 0 \"\" \"\"",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("nodes (-want +got):\n%s", diff)
	}
	if n, err := in.Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("Read after the end: %d, %v", n, err)
	}
	if _, err := in.Next(); err != io.EOF {
		t.Errorf("Next after the end: %v", err)
	}
}

func TestT19RereadIsIdentical(t *testing.T) {
	for name, archive := range valid {
		t.Run(name, func(t *testing.T) {
			for how, r := range map[string]io.Reader{
				"plain":   strings.NewReader(archive),
				"bytes":   iotest.OneByteReader(strings.NewReader(archive)),
				"halves":  iotest.HalfReader(strings.NewReader(archive)),
				"dataerr": iotest.DataErrReader(strings.NewReader(archive)),
			} {
				again, _, err := readAll(r, Limits{})
				must(t, err)
				if string(again) != archive {
					t.Errorf("%s: written again it differs", how)
				}
			}
		})
	}
}

func TestNothingBehindIsTaken(t *testing.T) {
	for name, archive := range valid {
		for what, pass := range map[string]func(io.Reader) (int64, error){
			"Skip":        func(r io.Reader) (int64, error) { return Skip(r, Limits{}) },
			"CopyArchive": func(r io.Reader) (int64, error) { return CopyArchive(io.Discard, r, Limits{}) },
			"Restore": func(r io.Reader) (int64, error) {
				s, err := Restore(tempDir(t)+"/x", r, RestoreOptions{})
				return s.Size, err
			},
		} {
			r := strings.NewReader(archive + archive + "rest")
			for range 2 {
				if n, err := pass(r); err != nil || n != int64(len(archive)) {
					t.Errorf("%s, %s: %d bytes, %v; want %d", name, what, n, err, len(archive))
				}
			}
			if rest, _ := io.ReadAll(r); string(rest) != "rest" {
				t.Errorf("%s, %s: %q is left, want %q", name, what, rest, "rest")
			}
		}
	}
}

func TestCopyArchiveIsExact(t *testing.T) {
	for name, archive := range valid {
		var out bytes.Buffer
		if _, err := CopyArchive(&out, iotest.HalfReader(strings.NewReader(archive)), Limits{}); err != nil || out.String() != archive {
			t.Errorf("%s: error %v, equal: %v", name, err, out.String() == archive)
		}
	}
	// What ends in the middle must not look like an archive afterwards.
	for n := range len(sample) {
		var out bytes.Buffer
		if _, err := CopyArchive(&out, strings.NewReader(sample[:n]), Limits{}); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatalf("first %d bytes: %v", n, err)
		}
		if _, err := Skip(&out, Limits{}); err == nil {
			t.Fatalf("first %d bytes became a whole archive", n)
		}
	}
}

func TestT05EvilArchives(t *testing.T) {
	for name, c := range evil {
		t.Run(name, func(t *testing.T) {
			_, headers, err := readAll(strings.NewReader(c.archive), Limits{})
			var bad *FormatError
			if !errors.As(err, &bad) || !strings.Contains(bad.Reason, c.reason) {
				t.Errorf("got %v, want a FormatError with %q", err, c.reason)
			}
			for i, h := range headers { // nothing bad is shown before it is refused
				for _, other := range headers[:i] {
					if h.Name == other.Name && h.Depth == other.Depth {
						t.Errorf("name %q was returned twice", h.Name)
					}
				}
				if h.Depth > 0 && checkName(h.Name) != "" {
					t.Errorf("name %q was returned", h.Name)
				}
			}
			if len(err.Error()) > 1000 {
				t.Errorf("the message has %d bytes", len(err.Error()))
			}
		})
	}
}

func TestFormatErrorOffset(t *testing.T) {
	first := root("") + words("(", "type", "directory") + named("a", file("text"))
	for _, c := range []struct {
		archive string
		want    FormatError
	}{
		{first + words("entry", "(", "name", "a", "node") + file(""), FormatError{Offset: int64(len(first + words("entry", "(", "name") + "lengthof")), Path: "a"}},
		{first + words("entry", "{", "name", "a"), FormatError{Offset: int64(len(first + words("entry"))), Path: "a"}},
		{first + words("entri", "(", "name", "a"), FormatError{Offset: int64(len(first)), Path: "a"}},
		{root(words("(", "tipe", "regular", "contents", "")), FormatError{Offset: int64(len(root(words("("))))}},
		{strings.Replace(root(file("abc")), "abc\x00", "abc\x01", 1), FormatError{Offset: int64(strings.Index(root(file("abc")), "abc") + 3)}},
	} {
		_, err := Skip(strings.NewReader(c.archive), Limits{})
		var bad *FormatError
		if !errors.As(err, &bad) || bad.Offset != c.want.Offset || bad.Path != c.want.Path {
			t.Errorf("got %#v, want offset %d in %q", bad, c.want.Offset, c.want.Path)
		}
	}
}

func TestEveryTruncation(t *testing.T) {
	for _, archive := range []string{sample, valid["file"], valid["symlink"], valid["directory"], valid["executable"]} {
		for n := range len(archive) {
			in := NewReader(strings.NewReader(archive[:n]), Limits{})
			var err error
			for err == nil {
				_, err = in.Next()
			}
			if !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Fatalf("first %d of %d bytes: %v", n, len(archive), err)
			}
			if _, again := in.Next(); again != err {
				t.Fatalf("the error does not stay: %v, then %v", err, again)
			}
			if _, again := in.Read(make([]byte, 1)); again != err {
				t.Fatalf("Read after an error: %v", again)
			}
		}
	}
}

// TestT19EveryByteChanged changes each byte of an archive in several ways. What
// is accepted must have one form only.
func TestT19EveryByteChanged(t *testing.T) {
	if os.Getenv("KILN_ROOT_RAN") == "1" {
		t.Skip("root has just done it, and nothing of it depends on who does")
	}
	accepted := 0
	for i := range len(sample) {
		for _, flip := range []byte{1, 2, 8, 0x20, 0x80, 0xff, sample[i]} {
			b := []byte(sample)
			b[i] ^= flip
			again, _, err := readAll(bytes.NewReader(b), Limits{})
			if err != nil {
				continue
			}
			accepted++
			if !bytes.Equal(again, b[:len(again)]) {
				t.Fatalf("with byte %d changed by %#x it is accepted, but written differently", i, flip)
			}
		}
	}
	if accepted == 0 {
		t.Error("no change was accepted, not even one of content")
	}
}

func TestStreamErrorsArePassedOn(t *testing.T) {
	for n := 0; n < len(sample); n += 13 {
		r := io.MultiReader(strings.NewReader(sample[:n]), iotest.ErrReader(iotest.ErrTimeout))
		if _, err := Skip(r, Limits{}); !errors.Is(err, iotest.ErrTimeout) {
			t.Fatalf("after %d bytes: %v", n, err)
		}
	}
}

// repeated is an endless stream after a beginning, to a given length.
type repeated struct {
	head, body string
	left       int
}

func (r *repeated) Read(p []byte) (int, error) {
	if len(r.head) > 0 {
		n := copy(p, r.head)
		r.head = r.head[n:]
		return n, nil
	}
	if r.left == 0 {
		return 0, io.EOF
	}
	r.left--
	r.head = r.body
	return r.Read(p)
}

// allocated is how many bytes f allocates.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

func TestT18DepthOfAMillion(t *testing.T) {
	const million = 1_000_000
	head := root(words("(", "type", "directory"))
	for name, c := range map[string]struct {
		name   string
		limits Limits
		reason string
	}{
		"default limits":    {"d", Limits{}, "more than 1024 levels of directories"},
		"longest names":     {strings.Repeat("d", MaxName), Limits{}, "path of more than 65536 bytes"},
		"path of a million": {strings.Repeat("d", MaxName), Limits{Depth: 2 * million, Path: million}, "path of more than 1000000 bytes"},
		"entries":           {"d", Limits{Depth: 2 * million, Path: 4 * million, Entries: 500}, "more than 500 files"},
		"size":              {"d", Limits{Depth: 2 * million, Path: 4 * million, Size: 1 << 20}, "archive of more than 1048576 bytes"},
	} {
		t.Run(name, func(t *testing.T) {
			for what, pass := range map[string]func(io.Reader) error{
				"Skip": func(r io.Reader) error { _, err := Skip(r, c.limits); return err },
				"Copy": func(r io.Reader) error { _, err := CopyArchive(io.Discard, r, c.limits); return err },
			} {
				r := &repeated{head, words("entry", "(", "name", c.name, "node", "(", "type", "directory"), million}
				var err error
				bytes := allocated(func() { err = pass(r) })
				var bad *FormatError
				if !errors.As(err, &bad) || bad.Reason != c.reason {
					t.Errorf("%s: got %.300v, want %s", what, err, c.reason)
				}
				if bytes > 8<<20+16*uint64(c.limits.Path) {
					t.Errorf("%s: %d bytes were allocated", what, bytes)
				}
			}
		})
	}
	t.Run("within limits", func(t *testing.T) {
		// Depth costs memory, but no stack.
		r := io.MultiReader(&repeated{head, words("entry", "(", "name", "d", "node", "(", "type", "directory"), million},
			&repeated{word(")"), words(")", ")"), million})
		var n int64
		var err error
		bytes := allocated(func() { n, err = Skip(r, Limits{Depth: million, Path: 2 * million}) })
		if err != nil || n != int64(len(head)+16+million*(7*16+24+32)) {
			t.Errorf("%d bytes, %v", n, err)
		}
		if bytes > 128<<20 {
			t.Errorf("%d bytes were allocated for %d levels", bytes, million)
		}
	})
}

// lengths are the offsets in the sample of all lengths, and of what they are.
func lengths(archive string) (offsets []int) {
	for i := 0; i+8 <= len(archive); {
		offsets = append(offsets, i)
		n := int(binary.LittleEndian.Uint64([]byte(archive[i:])))
		i += 8 + n + -n&7
	}
	return offsets
}

// withLength has another length in place of that at offset.
func withLength(archive string, offset int, n uint64) string {
	b := []byte(archive)
	binary.LittleEndian.PutUint64(b[offset:], n)
	return string(b)
}

func TestT19LengthsWithoutAllocation(t *testing.T) {
	passes(t, []uint64{1 << 16, 1 << 31, 1 << 32, 1 << 40, 1 << 62})
}

func TestT20LengthsThatOverflow(t *testing.T) {
	var values []uint64
	for k := range uint64(17) {
		values = append(values, math.MaxUint64-k, 1<<63-1-k, 1<<63+k, 1<<32+k, 1<<31-1-k)
	}
	passes(t, values)
}

// passes puts each of the values in the place of each length of the sample.
func passes(t *testing.T, values []uint64) {
	for what, pass := range map[string]func(io.Reader) error{
		"Skip":        func(r io.Reader) error { _, err := Skip(r, Limits{}); return err },
		"CopyArchive": func(r io.Reader) error { _, err := CopyArchive(io.Discard, r, Limits{}); return err },
	} {
		for _, at := range lengths(sample) {
			bytes := allocated(func() {
				for _, n := range values {
					err := pass(strings.NewReader(withLength(sample, at, n)))
					var bad *FormatError
					if !errors.As(err, &bad) && !errors.Is(err, io.ErrUnexpectedEOF) {
						t.Errorf("%s, length %#x at %d: %v", what, n, at, err)
					}
				}
			})
			if bytes > 16<<20 {
				t.Errorf("%s, length at %d: %d bytes were allocated", what, at, bytes)
			}
		}
	}
}

func TestContentLength(t *testing.T) {
	head := root(words("(", "type", "regular", "contents"))
	for _, c := range []struct {
		size uint64
		ok   bool
	}{{0, true}, {1, true}, {1 << 40, true}, {1 << 62, true}, {math.MaxInt64 - 1<<20, true},
		{math.MaxInt64 - 8, false}, {math.MaxInt64, false}, {1 << 63, false}, {math.MaxUint64, false}, {math.MaxUint64 - 7, false}} {
		r := NewReader(strings.NewReader(head+string(binary.LittleEndian.AppendUint64(nil, c.size))), Limits{})
		h, err := r.Next()
		if (err == nil) != c.ok || err == nil && h.Size != int64(c.size) {
			t.Errorf("content of %#x bytes: size %d, %v", c.size, h.Size, err)
		}
	}
}

func TestLimits(t *testing.T) {
	size := int64(len(sample))
	for name, c := range map[string]struct{ fits, tight Limits }{
		"depth":   {Limits{Depth: 4}, Limits{Depth: 3}},
		"path":    {Limits{Path: len("A~nix~case~hack~1")}, Limits{Path: len("A~nix~case~hack~1") - 1}},
		"entries": {Limits{Entries: 14}, Limits{Entries: 13}},
		"size":    {Limits{Size: size}, Limits{Size: size - 1}},
	} {
		if again, _, err := readAll(strings.NewReader(sample), c.fits); err != nil || string(again) != sample {
			t.Errorf("%s at its limit: %v", name, err)
		}
		var bad *FormatError
		if _, err := Skip(strings.NewReader(sample), c.tight); !errors.As(err, &bad) {
			t.Errorf("%s beyond its limit: %v", name, err)
		}
		// The Writer holds the same limits.
		out := NewWriter(io.Discard, c.tight)
		err := copyNodes(out, NewReader(strings.NewReader(sample), Limits{}))
		if err == nil {
			err = out.Close()
		}
		if err == nil {
			t.Errorf("%s beyond its limit was written", name)
		}
	}
	// A size beyond the limit is noticed before the content comes.
	r := NewReader(strings.NewReader(withLength(valid["file"], len(valid["file"])-32, 1<<40)), Limits{Size: 1 << 30})
	if _, err := r.Next(); err == nil || !strings.Contains(err.Error(), "exceeds an archive of") {
		t.Errorf("got %v", err)
	}
}

func FuzzReader(f *testing.F) {
	for _, archive := range valid {
		if len(archive) < 1<<12 {
			f.Add([]byte(archive))
		}
	}
	for _, c := range evil {
		if len(c.archive) < 1<<12 {
			f.Add([]byte(c.archive))
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		again, headers, err := readAll(bytes.NewReader(b), Limits{})
		skipped, skipErr := Skip(iotest.OneByteReader(bytes.NewReader(b)), Limits{})
		if (err == nil) != (skipErr == nil) {
			t.Fatalf("read: %v, skip: %v", err, skipErr)
		}
		if err != nil {
			return
		}
		if int64(len(again)) != skipped || !bytes.Equal(again, b[:len(again)]) {
			t.Fatalf("accepted, but written differently:\n%q\n%q", b, again)
		}
		for _, h := range headers[1:] {
			if reason := checkName(h.Name); reason != "" {
				t.Fatal(reason)
			}
		}
	})
}

func BenchmarkSkip(b *testing.B) {
	for name, archive := range map[string]string{
		"small": root(dir(wide(20_000)...)),
		"large": root(file(strings.Repeat("x", 64<<20))),
	} {
		b.Run(name, func(b *testing.B) {
			b.SetBytes(int64(len(archive)))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Skip(strings.NewReader(archive), Limits{}); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkCopyArchive(b *testing.B) {
	archive := root(dir(wide(20_000)...))
	b.SetBytes(int64(len(archive)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := CopyArchive(io.Discard, strings.NewReader(archive), Limits{}); err != nil {
			b.Fatal(err)
		}
	}
}
