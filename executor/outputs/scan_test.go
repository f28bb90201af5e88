package outputs

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"testing"
)

// TestTee checks that both takers of a tee get everything, below and above the
// size at which it begins to use two threads.
func TestTee(t *testing.T) {
	for _, size := range []int{0, 1, teeThreshold - 1, teeThreshold, 5*teeThreshold + 3} {
		data := bytes.Repeat([]byte("0123456789abcdef"), size/16+1)[:size]
		digest := sha256.New()
		var second bytes.Buffer
		tee := newTee(t.Context(), digest, &second)
		for rest := data; len(rest) > 0; {
			n := min(len(rest), 300_000)
			if _, err := tee.Write(rest[:n]); err != nil {
				t.Fatal(err)
			}
			rest = rest[n:]
		}
		tee.Close()
		if want := sha256.Sum256(data); !bytes.Equal(digest.Sum(nil), want[:]) {
			t.Errorf("%d bytes: the hash is wrong", size)
		}
		if !bytes.Equal(second.Bytes(), data) {
			t.Errorf("%d bytes: the second taker got %d bytes", size, second.Len())
		}
	}
}

type failingWriter struct{ err error }

func (w failingWriter) Write([]byte) (int, error) { return 0, w.err }

func TestTeePassesFailuresOn(t *testing.T) {
	want := errors.New("no")
	tee := newTee(t.Context(), sha256.New(), failingWriter{want})
	block := make([]byte, teeThreshold)
	for _, size := range []int{1, teeThreshold} {
		if _, err := tee.Write(block[:size]); !errors.Is(err, want) {
			t.Errorf("Write of %d bytes gives %v, want %v", size, err, want)
		}
	}
	tee.Close()
}

func TestTeeStopsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	tee := newTee(ctx, sha256.New(), &bytes.Buffer{})
	tee.Write(make([]byte, teeThreshold))
	cancel()
	if _, err := tee.Write(make([]byte, teeThreshold)); !errors.Is(err, context.Canceled) {
		t.Errorf("Write after cancel: %v", err)
	}
	tee.Close()
}
