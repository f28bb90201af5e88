package wire

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
)

func encoded(t testing.TB, write func(*Writer)) []byte {
	t.Helper()
	var b bytes.Buffer
	w := NewWriter(&b)
	write(w)
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestBytesOnTheWire(t *testing.T) {
	for _, c := range []struct {
		name  string
		write func(*Writer)
		want  string
	}{
		{"number", func(w *Writer) { w.Uint64(0x0102) }, "\x02\x01\x00\x00\x00\x00\x00\x00"},
		{"negative", func(w *Writer) { w.Int64(-1) }, "\xff\xff\xff\xff\xff\xff\xff\xff"},
		{"true", func(w *Writer) { w.Bool(true) }, "\x01\x00\x00\x00\x00\x00\x00\x00"},
		{"string", func(w *Writer) { w.Text("abc") }, "\x03\x00\x00\x00\x00\x00\x00\x00abc\x00\x00\x00\x00\x00"},
		{"whole string", func(w *Writer) { w.Bytes([]byte("abcdefgh")) }, "\x08\x00\x00\x00\x00\x00\x00\x00abcdefgh"},
		{"empty", func(w *Writer) { w.Text("") }, "\x00\x00\x00\x00\x00\x00\x00\x00"},
		{"set", func(w *Writer) { w.TextSet([]string{"b", "a", "b"}) },
			"\x02\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00a\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00b\x00\x00\x00\x00\x00\x00\x00"},
		{"framed", func(w *Writer) { f := NewFramedWriter(w); io.WriteString(f, "ab"); io.WriteString(f, "c"); f.Close() },
			"\x03\x00\x00\x00\x00\x00\x00\x00abc\x00\x00\x00\x00\x00\x00\x00\x00"},
	} {
		if d := cmp.Diff(c.want, string(encoded(t, c.write))); d != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, d)
		}
	}
}

func TestRoundTrip(t *testing.T) {
	long := strings.Repeat("long ", 100_000)
	list, m := []string{"x", "", long}, map[string]uint64{"a": 1, "b": 2}
	data := encoded(t, func(w *Writer) {
		w.Int64(-7)
		w.Bool(true)
		w.Texts(list)
		WriteMap(w, m, w.Text, w.Uint64)
		w.Uint64(9)
	})
	r := NewReader(iotest.HalfReader(bytes.NewReader(data)), Limits{})
	if n := r.Int64(); n != -7 {
		t.Errorf("number %d", n)
	}
	if !r.Bool() {
		t.Error("not true")
	}
	if d := cmp.Diff(list, r.Texts()); d != "" {
		t.Errorf("list differs")
	}
	if d := cmp.Diff(m, Map(r, r.Text, r.Uint64)); d != "" {
		t.Error(d)
	}
	if n := r.Number(9); n != 9 || r.Err() != nil {
		t.Errorf("number %d, %v", n, r.Err())
	}
	if err := r.Wait(); err != io.EOF {
		t.Errorf("end: %v", err)
	}
}

func TestRefuses(t *testing.T) {
	word := func(n uint64) []byte { return binary.LittleEndian.AppendUint64(nil, n) }
	for _, c := range []struct {
		name   string
		data   []byte
		read   func(*Reader)
		limits Limits
		want   error // nil for any
	}{
		{"huge string", word(1 << 60), func(r *Reader) { r.Text() }, Limits{}, ErrLimit},
		{"huge list", word(1 << 60), func(r *Reader) { r.Texts() }, Limits{}, ErrLimit},
		{"huge map", word(1<<64 - 1), func(r *Reader) { Map(r, r.Text, r.Text) }, Limits{}, ErrLimit},
		{"string that does not come", word(60 << 20), func(r *Reader) { r.Text() }, Limits{}, io.ErrUnexpectedEOF},
		{"list that does not come", word(1 << 20), func(r *Reader) { r.Texts() }, Limits{}, io.ErrUnexpectedEOF},
		{"long string", encoded(t, func(w *Writer) { w.Text("abc") }), func(r *Reader) { r.Text() }, Limits{String: 2}, ErrLimit},
		{"long message", encoded(t, func(w *Writer) { w.Text("abc"); w.Text("def") }), func(r *Reader) { r.Text(); r.Text() }, Limits{Message: 5}, ErrLimit},
		{"long list", encoded(t, func(w *Writer) { w.Texts(make([]string, 3)) }), func(r *Reader) { r.Texts() }, Limits{Count: 2}, ErrLimit},
		{"padding", append(word(1), "a\x00\x00\x00\x00\x00\x00\x01"...), func(r *Reader) { r.Text() }, Limits{}, nil},
		{"no padding", append(word(1), "a"...), func(r *Reader) { r.Text() }, Limits{}, io.ErrUnexpectedEOF},
		{"half a number", []byte("abc"), func(r *Reader) { r.Uint64() }, Limits{}, io.ErrUnexpectedEOF},
		{"nothing", nil, func(r *Reader) { r.Uint64() }, Limits{}, io.ErrUnexpectedEOF},
		{"large number", word(3), func(r *Reader) { r.Number(2) }, Limits{}, ErrLimit},
		{"large chunk", word(1 << 32), func(r *Reader) { io.ReadAll(NewFramedReader(r)) }, Limits{}, ErrLimit},
		{"chunk that does not come", word(1 << 31), func(r *Reader) { NewFramedReader(r).Drain() }, Limits{}, io.ErrUnexpectedEOF},
		{"no last chunk", append(word(1), 'a'), func(r *Reader) { NewFramedReader(r).Drain() }, Limits{}, io.ErrUnexpectedEOF},
	} {
		var before, after runtime.MemStats
		r := NewReader(bytes.NewReader(c.data), c.limits)
		runtime.ReadMemStats(&before)
		c.read(r)
		runtime.ReadMemStats(&after)
		if err := r.Err(); err == nil || c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
		if spent := after.TotalAlloc - before.TotalAlloc; spent > 1<<20 {
			t.Errorf("%s: %d bytes allocated", c.name, spent)
		}
	}
}

func TestBegin(t *testing.T) {
	r := NewReader(bytes.NewReader(encoded(t, func(w *Writer) { w.Text("abc"); w.Text("def") })), Limits{Message: 5})
	r.Text()
	r.Begin()
	if s := r.Text(); s != "def" || r.Err() != nil {
		t.Errorf("%q, %v", s, r.Err())
	}
}

func TestFramed(t *testing.T) {
	content := strings.Repeat("0123456789", 20_000)
	data := encoded(t, func(w *Writer) {
		f := NewFramedWriter(w)
		io.WriteString(f, content)
		f.Close()
		w.Uint64(5)
	})
	for name, read := range map[string]func(*FramedReader){
		"read":  func(f *FramedReader) { io.ReadAll(f) },
		"drain": func(f *FramedReader) { f.Read(make([]byte, 10)); f.Drain() },
	} {
		r := NewReader(bytes.NewReader(data), Limits{})
		f := NewFramedReader(r)
		read(f)
		if n := r.Uint64(); n != 5 || r.Err() != nil {
			t.Errorf("%s: then came %d, %v", name, n, r.Err())
		}
	}
	got, err := io.ReadAll(iotest.OneByteReader(NewFramedReader(NewReader(bytes.NewReader(data), Limits{}))))
	if string(got) != content || err != nil {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

func FuzzReader(f *testing.F) {
	f.Add(encoded(f, func(w *Writer) { w.Text("abc"); w.Texts([]string{"x", "y"}); w.Uint64(3) }))
	f.Add([]byte("\xff\xff\xff\xff\xff\xff\xff\x0f"))
	f.Fuzz(func(t *testing.T, data []byte) {
		r := NewReader(bytes.NewReader(data), Limits{})
		s, list, n := r.Text(), r.Texts(), r.Uint64()
		if r.Err() != nil {
			return
		}
		again := encoded(t, func(w *Writer) { w.Text(s); w.Texts(list); w.Uint64(n) })
		if !bytes.HasPrefix(data, again) {
			t.Errorf("%q was read as %q", data, again)
		}
	})
}

func FuzzFramed(f *testing.F) {
	f.Add(encoded(f, func(w *Writer) { c := NewFramedWriter(w); io.WriteString(c, "abc"); c.Close() }))
	f.Add([]byte("\xff\xff\xff\xff\x00\x00\x00\x00abc"))
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := io.ReadAll(NewFramedReader(NewReader(bytes.NewReader(data), Limits{})))
		if len(got) > len(data) {
			t.Errorf("%d bytes of %d, %v", len(got), len(data), err)
		}
	})
}
