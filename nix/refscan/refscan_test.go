package refscan

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/google/go-cmp/cmp"
	"github.com/kilnbuild/kiln/nix/base32"
)

func randomHash(rng *rand.Rand) string {
	b := make([]byte, HashLen)
	for i := range b {
		b[i] = base32.Alphabet[rng.IntN(32)]
	}
	return string(b)
}

func randomHashes(seed uint64, n int) []string {
	rng := rand.New(rand.NewPCG(seed, 0))
	hashes := make([]string, n)
	for i := range hashes {
		hashes[i] = randomHash(rng)
	}
	return hashes
}

// writeChunks writes data in pieces whose sizes come from sizes, in turns.
func writeChunks(t testing.TB, w io.Writer, data, sizes []byte) {
	t.Helper()
	for i := 0; len(data) > 0; i++ {
		n := len(data)
		if len(sizes) > 0 {
			n = min(int(sizes[i%len(sizes)])+1, n)
		}
		if got, err := w.Write(data[:n]); got != n || err != nil {
			t.Fatalf("write %d bytes: %d, %v", n, got, err)
		}
		data = data[n:]
	}
}

func naiveScan(hashes []string, data []byte) []string {
	found := []string{}
	for _, h := range slices.Compact(slices.Sorted(slices.Values(hashes))) {
		if bytes.Contains(data, []byte(h)) {
			found = append(found, h)
		}
	}
	return found
}

func naiveRewrite(rewrites map[string]string, self string, data []byte) (out []byte, offsets []int64) {
	out = bytes.Clone(data)
	for i := 0; i+HashLen <= len(data); {
		window := string(data[i : i+HashLen])
		to, ok := rewrites[window]
		if window == self {
			offsets = append(offsets, int64(i))
		}
		copy(out[i:], to)
		if ok || window == self {
			i += HashLen
		} else {
			i++
		}
	}
	return out, offsets
}

func TestScanner(t *testing.T) {
	h := randomHashes(1, 3)
	a, b, c := h[0], h[1], h[2]
	for name, text := range map[string]string{
		"nothing":           "",
		"alone":             a,
		"at both ends":      a + strings.Repeat("-", 100) + b,
		"no word boundary":  "0" + a + "0",
		"side by side":      a + b + c,
		"one short":         a[:31] + "-" + b[1:],
		"one character off": a[:16] + "-" + a[17:],
		"after a near miss": a[:31] + a,
		"after a prefix":    a[:5] + a[:9] + a[:20] + a,
		"capitals":          strings.ToUpper(a),
		"NULs":              strings.Repeat("\x00", 64) + c + strings.Repeat("\x00", 7),
		"twice":             a + a,
		"offset by 8":       "12345678" + b + "/bin",
		"many characters":   strings.Repeat("0", 500) + c + strings.Repeat("0", 500),
	} {
		t.Run(name, func(t *testing.T) {
			want := naiveScan(h, []byte(text))
			s, err := NewScanner(h)
			if err != nil {
				t.Fatal(err)
			}
			for size := range 70 {
				s.Reset()
				writeChunks(t, s, []byte(text), []byte{byte(size)})
				if diff := cmp.Diff(want, s.Found()); diff != "" {
					t.Errorf("in pieces of %d (-want +got):\n%s", size+1, diff)
				}
			}
		})
	}
}

// Hashes that share blocks, and such as overlap themselves and each other.
func TestScannerOverlaps(t *testing.T) {
	zeros := strings.Repeat("0", HashLen)
	period := strings.Repeat("01", HashLen/2)
	shifted := strings.Repeat("10", HashLen/2)
	hashes := []string{zeros, period, shifted, zeros[1:] + "1", "1" + zeros[1:], zeros}
	for _, text := range []string{
		zeros, zeros[:31] + "1", period + "0", "1" + zeros, zeros + zeros[:31] + "1" + zeros, shifted + period, zeros[:31],
	} {
		s, err := NewScanner(hashes)
		if err != nil {
			t.Fatal(err)
		}
		writeChunks(t, s, []byte(text), nil)
		if diff := cmp.Diff(naiveScan(hashes, []byte(text)), s.Found()); diff != "" {
			t.Errorf("%s (-want +got):\n%s", text, diff)
		}
	}
}

func TestScannerManyHashes(t *testing.T) {
	for _, n := range []int{0, 1, 100, 30_000} {
		hashes := randomHashes(uint64(n), n)
		rng := rand.New(rand.NewPCG(7, 7))
		var text bytes.Buffer
		for i, h := range hashes {
			if i%3 == 0 {
				text.WriteString(h)
			}
			text.WriteString(randomHash(rng)[:rng.IntN(32)])
		}
		s, err := NewScanner(hashes)
		if err != nil {
			t.Fatal(err)
		}
		writeChunks(t, s, text.Bytes(), []byte{200, 3, 90, 0, 255})
		want := []string{}
		for i := 0; i < n; i += 3 {
			want = append(want, hashes[i])
		}
		slices.Sort(want)
		if diff := cmp.Diff(want, s.Found()); diff != "" {
			t.Errorf("%d hashes (-want +got):\n%s", n, diff)
		}
	}
}

func TestRefusesWhatIsNoHash(t *testing.T) {
	h := randomHashes(1, 1)[0]
	for _, bad := range []string{"", h[1:], h + "0", h[1:] + "e", h[1:] + "A", h[1:] + "\x00", strings.Repeat("x", 1<<20)} {
		if _, err := NewScanner([]string{h, bad}); err == nil || len(err.Error()) > 1000 {
			t.Errorf("NewScanner with %.40q: %.100v", bad, err)
		}
		if _, err := NewRewriter(io.Discard, map[string]string{bad: bad}, RewriterOptions{}); err == nil {
			t.Errorf("NewRewriter with %.40q succeeded", bad)
		}
		if _, err := NewModulo(io.Discard, bad); err == nil {
			t.Errorf("NewModulo with %.40q succeeded", bad)
		}
	}
	if _, err := NewRewriter(io.Discard, map[string]string{h: h + "0"}, RewriterOptions{}); err == nil {
		t.Error("NewRewriter with a longer replacement succeeded")
	}
}

func TestRewriter(t *testing.T) {
	h := randomHashes(2, 4)
	rewrites := map[string]string{h[0]: h[1], h[1]: h[0], h[2]: strings.Repeat("\x00", HashLen)}
	gap := strings.Repeat("text ", rewriteRoom/5-5)
	for name, text := range map[string]string{
		"empty":           "",
		"short":           "x",
		"exchanged":       h[0] + h[1],
		"zeroed":          "a" + h[2] + "b",
		"reported only":   h[3] + "-" + h[3],
		"around the room": gap + h[0] + gap + h[2] + gap + h[3] + h[1][:31],
		"room all full":   strings.Repeat(h[0], 3*rewriteRoom/HashLen),
		"room, off by 7":  "1234567" + strings.Repeat(h[2], 3*rewriteRoom/HashLen),
		"overlap":         h[2][:31] + h[2] + h[2][1:],
	} {
		t.Run(name, func(t *testing.T) {
			for _, self := range []string{"", h[2], h[3]} {
				want, wantOffsets := naiveRewrite(rewrites, self, []byte(text))
				for _, sizes := range [][]byte{nil, {255}, {0}, {7, 31, 32, 100}} {
					var out bytes.Buffer
					var offsets []int64
					r, err := NewRewriter(&out, rewrites, RewriterOptions{Self: self, Match: func(o int64) { offsets = append(offsets, o) }})
					if err != nil {
						t.Fatal(err)
					}
					writeChunks(t, r, []byte(text), sizes)
					if err := errors.Join(r.Close(), r.Close()); err != nil {
						t.Fatal(err)
					}
					if !bytes.Equal(out.Bytes(), want) {
						t.Errorf("in pieces of %v: the output differs", sizes)
					}
					if diff := cmp.Diff(wantOffsets, offsets); diff != "" {
						t.Errorf("in pieces of %v: offsets (-want +got):\n%s", sizes, diff)
					}
					if _, err := r.Write([]byte("x")); err == nil {
						t.Error("Write after Close succeeded")
					}
				}
			}
		})
	}
}

type failingWriter struct{ left int }

func (w *failingWriter) Write(p []byte) (int, error) {
	if w.left -= len(p); w.left < 0 {
		return 0, iotest.ErrTimeout
	}
	return len(p), nil
}

func TestRewriterPassesErrors(t *testing.T) {
	h := randomHashes(3, 1)[0]
	data := make([]byte, 3*rewriteRoom)
	for _, left := range []int{0, rewriteRoom, 2 * rewriteRoom, len(data) - 1} {
		m, err := NewModulo(&failingWriter{left}, h)
		if err != nil {
			t.Fatal(err)
		}
		_, writeErr := m.Write(data)
		if err := errors.Join(writeErr, m.Close()); !errors.Is(err, iotest.ErrTimeout) {
			t.Errorf("writer that fails after %d bytes: got %v", left, err)
		}
	}
}

func TestModulo(t *testing.T) {
	h := randomHashes(4, 2)
	zeros := strings.Repeat("\x00", HashLen)
	for _, c := range []struct{ in, want string }{
		{"", ""},
		{"no reference " + h[1], "no reference " + h[1]},
		{h[0], zeros + "|0"},
		{"ab" + h[0] + "c" + h[0] + h[1], "ab" + zeros + "c" + zeros + h[1] + "|2|35"},
		{zeros + h[0], zeros + zeros + "|32"},
	} {
		var out bytes.Buffer
		m, err := NewModulo(&out, h[0])
		if err != nil {
			t.Fatal(err)
		}
		writeChunks(t, m, []byte(c.in), []byte{10})
		if err := errors.Join(m.Close(), m.Close()); err != nil {
			t.Fatal(err)
		}
		if got := out.String(); got != c.want {
			t.Errorf("%q:\n got %q\nwant %q", c.in, got, c.want)
		}
	}

	// Enough offsets for several pieces.
	const n = 10_000
	var out bytes.Buffer
	m, err := NewModulo(&out, h[0])
	if err != nil {
		t.Fatal(err)
	}
	writeChunks(t, m, bytes.Repeat([]byte(h[0]), n), nil)
	if len(m.gaps) > n+n/2 {
		t.Errorf("%d offsets take %d bytes", n, len(m.gaps))
	}
	if err := m.Close(); err != nil {
		t.Fatal(err)
	}
	var want bytes.Buffer
	want.WriteString(strings.Repeat(zeros, n))
	for i := range n {
		fmt.Fprintf(&want, "|%d", i*HashLen)
	}
	if !bytes.Equal(out.Bytes(), want.Bytes()) {
		t.Error("the offsets of many occurrences differ")
	}
}

func TestConstantMemory(t *testing.T) {
	h := randomHashes(5, 50)
	s, err := NewScanner(h)
	if err != nil {
		t.Fatal(err)
	}
	r, err := NewRewriter(io.Discard, map[string]string{h[0]: h[1]}, RewriterOptions{})
	if err != nil {
		t.Fatal(err)
	}
	chunk := []byte(strings.Repeat("x", 1000) + h[0])
	if n := testing.AllocsPerRun(1000, func() {
		s.Write(chunk)
		r.Write(chunk)
	}); n != 0 {
		t.Errorf("%v allocations for a write, want none", n)
	}
}

func FuzzScanner(f *testing.F) {
	h := strings.Join(randomHashes(6, 3), "")
	f.Add([]byte(h), []byte("x"+h+"y"), []byte{3, 40})
	f.Add([]byte(h[:64]), []byte(h[32:64]+h[1:40]+h[:32]), []byte{0})
	f.Add([]byte(strings.Repeat("0", 33)), []byte(strings.Repeat("0", 40)), []byte{})
	f.Fuzz(func(t *testing.T, seed, data, sizes []byte) {
		hashes, data := fuzzInput(seed, data)
		s, err := NewScanner(hashes)
		if err != nil {
			t.Fatal(err)
		}
		writeChunks(t, s, data, sizes)
		if diff := cmp.Diff(naiveScan(hashes, data), s.Found()); diff != "" {
			t.Fatalf("found (-want +got):\n%s", diff)
		}
	})
}

func FuzzRewriter(f *testing.F) {
	h := strings.Join(randomHashes(6, 3), "")
	f.Add([]byte(h), []byte("x"+h+"y"), []byte{3, 40})
	f.Add([]byte(strings.Repeat("0", 33)), []byte(strings.Repeat("0", 40)), []byte{})
	f.Fuzz(func(t *testing.T, seed, data, sizes []byte) {
		hashes, data := fuzzInput(seed, data)
		rewrites, self := map[string]string{}, ""
		for i, h := range hashes {
			self = h
			if i%4 < 3 {
				rewrites[h] = hashes[(i+1)%len(hashes)]
			}
		}
		want, wantOffsets := naiveRewrite(rewrites, self, data)
		var out bytes.Buffer
		var offsets []int64
		r, err := NewRewriter(&out, rewrites, RewriterOptions{Self: self, Match: func(o int64) { offsets = append(offsets, o) }})
		if err != nil {
			t.Fatal(err)
		}
		writeChunks(t, r, data, sizes)
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(out.Bytes(), want) {
			t.Fatalf("got %q\nwant %q", out.Bytes(), want)
		}
		if diff := cmp.Diff(wantOffsets, offsets); diff != "" {
			t.Fatalf("offsets (-want +got):\n%s", diff)
		}
	})
}

// fuzzInput makes hashes of the bytes of seed, with few different characters so
// that they overlap, and replaces some bytes of data by whole hashes or parts of
// them.
func fuzzInput(seed, data []byte) (hashes []string, text []byte) {
	set := map[string]bool{}
	for i := 0; i+HashLen <= len(seed) && len(set) < 20; i += 1 + int(seed[i]%40) {
		h := make([]byte, HashLen)
		for k := range h {
			h[k] = base32.Alphabet[seed[i+k]%32]
		}
		set[string(h)] = true
	}
	hashes = slices.Sorted(maps.Keys(set))
	for _, c := range data {
		if c >= 0xe0 && len(hashes) > 0 {
			h := hashes[int(c)%len(hashes)]
			text = append(text, h[:HashLen-int(c>>3)%4]...)
		} else {
			text = append(text, c)
		}
	}
	return hashes, text
}
