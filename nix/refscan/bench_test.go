package refscan

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"testing"

	"github.com/kilnbuild/kiln/nix/base32"
)

const benchLen = 8 << 20

// texts are what a scan meets, and what somebody would make to slow it down.
func texts(hashes []string) map[string][]byte {
	rng := rand.New(rand.NewPCG(9, 9))
	fill := func(next func(i int) byte) []byte {
		b := make([]byte, benchLen)
		for i := range b {
			b[i] = next(i)
		}
		return b
	}
	repeat := func(s string) []byte { return bytes.Repeat([]byte(s), benchLen/len(s)) }
	h := "0123456789abcdfghijklmnpqrsvwxyz"
	if len(hashes) > 0 {
		h = hashes[0]
	}
	return map[string][]byte{
		"random-bytes":  fill(func(int) byte { return byte(rng.Uint32()) }),
		"words":         repeat("The quick brown fox jumps over the lazy dog; "),
		"zeros":         make([]byte, benchLen),
		"base32":        fill(func(int) byte { return base32.Alphabet[rng.IntN(32)] }),
		"one-character": repeat("0"),
		"prefixes":      repeat(h[:31]),
		"suffixes":      repeat(h[1:]),
		"last-blocks":   repeat(h[24:]),
		"occurrences":   repeat(h),
		"two-off":       repeat(h[:1] + h + h[:23] + h[24:]),
	}
}

func benchmark(b *testing.B, run func(b *testing.B, hashes []string, text []byte)) {
	for _, n := range []int{1, 10, 100, 1000, 20_000} {
		hashes := randomHashes(8, n)
		for name, text := range texts(hashes) {
			b.Run(fmt.Sprintf("%s/%d", name, n), func(b *testing.B) {
				b.SetBytes(int64(len(text)))
				run(b, hashes, text)
			})
		}
	}
}

// missing is a hash that no text has, so that a scan never ends early.
const missing = "zzzzzzzzzzzzzzzzyyyyyyyyyyyyyyyy"

func BenchmarkScanner(b *testing.B) {
	benchmark(b, func(b *testing.B, hashes []string, text []byte) {
		s, err := NewScanner(append(hashes, missing))
		if err != nil {
			b.Fatal(err)
		}
		for b.Loop() {
			for p := text; len(p) > 0; p = p[min(len(p), 64<<10):] {
				s.Write(p[:min(len(p), 64<<10)])
			}
		}
	})
}

// BenchmarkScannerGround has hashes that somebody spent 2^40 trials each on: all
// end in the same eight characters, and the text is made of these.
func BenchmarkScannerGround(b *testing.B) {
	hashes := randomHashes(8, 100)
	for i := range hashes {
		hashes[i] = hashes[i][:24] + "00000000"
	}
	s, err := NewScanner(append(hashes, missing))
	if err != nil {
		b.Fatal(err)
	}
	text := bytes.Repeat([]byte("0"), benchLen)
	b.SetBytes(benchLen)
	for b.Loop() {
		s.Write(text)
	}
}

func BenchmarkRewriter(b *testing.B) {
	benchmark(b, func(b *testing.B, hashes []string, text []byte) {
		rewrites := map[string]string{missing: missing}
		for _, h := range hashes {
			rewrites[h] = h
		}
		for b.Loop() {
			r, err := NewRewriter(io.Discard, rewrites, RewriterOptions{})
			if err != nil {
				b.Fatal(err)
			}
			for p := text; len(p) > 0; p = p[min(len(p), 64<<10):] {
				r.Write(p[:min(len(p), 64<<10)])
			}
			r.Close()
		}
	})
}

func BenchmarkNewScanner(b *testing.B) {
	for _, n := range []int{1, 10, 100, 1000, 20_000} {
		hashes := randomHashes(8, n)
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, err := NewScanner(hashes); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
