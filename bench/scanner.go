package main

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/kilnbuild/kiln/nix/base32"
	"github.com/kilnbuild/kiln/nix/refscan"
)

const (
	scanText   = 8 << 20  // bytes of each text
	scanWrite  = 64 << 10 // bytes of one write
	scanHashes = 100
	scanTime   = 200 * time.Millisecond // how long each text is scanned, at least
)

// scannerNote is how fast the search for references is by itself, on usual content
// and on such as somebody would make to slow it down. SHA-256, through which
// everything goes as well, is there to compare with.
func scannerNote() (string, error) {
	random := rand.New(rand.NewPCG(1, 2))
	hashes := make([]string, scanHashes)
	for i := range hashes {
		hash := make([]byte, refscan.HashLen)
		for j := range hash {
			hash[j] = base32.Alphabet[random.IntN(len(base32.Alphabet))]
		}
		hashes[i] = string(hash)
	}
	fill := func(next func() byte) []byte {
		text := make([]byte, scanText)
		for i := range text {
			text[i] = next()
		}
		return text
	}
	repeat := func(s string) []byte { return bytes.Repeat([]byte(s), scanText/len(s)) }
	first := hashes[0]
	var b strings.Builder
	fmt.Fprintf(&b, "\n%-42s  %10s\n", fmt.Sprintf("search for %d hashes, by itself", scanHashes), "MB/s")
	for _, t := range []struct {
		name string
		text []byte
	}{
		{"any bytes", fill(func() byte { return byte(random.Uint32()) })},
		{"random characters of hashes", fill(func() byte { return base32.Alphabet[random.IntN(len(base32.Alphabet))] })},
		{"a hash without its last character", repeat(first[:refscan.HashLen-1])},
		{"a hash without its first character", repeat(first[1:])},
		{"the last characters of a hash", repeat(first[refscan.HashLen-8:])},
		{"a hash", repeat(first)},
	} {
		s, err := refscan.NewScanner(hashes)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&b, "%-42s  %10.0f\n", t.name, speed(t.text, func(p []byte) { s.Write(p) }))
	}
	h := sha256.New()
	fmt.Fprintf(&b, "%-42s  %10.0f\n", "SHA-256, to compare with", speed(make([]byte, scanText), func(p []byte) { h.Write(p) }))
	return b.String(), nil
}

// speed is how fast a text can be written, in millions of bytes a second.
func speed(text []byte, write func(p []byte)) float64 {
	begin, written := time.Now(), 0
	for time.Since(begin) < scanTime {
		for rest := text; len(rest) > 0; {
			n := min(len(rest), scanWrite)
			write(rest[:n])
			rest = rest[n:]
		}
		written += len(text)
	}
	return float64(written) / time.Since(begin).Seconds() / 1e6
}
