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
		room := make([]byte, 300_000)
		for i, rest := 0, data; len(rest) > 0; i++ {
			n := min(len(rest), len(room))
			var err error
			if i%3 == 0 { // every third by the way that copies
				_, err = tee.Write(rest[:n])
			} else {
				copy(room, rest[:n])
				room, err = tee.Exchange(room[:n])
			}
			if err != nil {
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
		if other, err := tee.Exchange(make([]byte, size)); !errors.Is(err, want) || len(other) != size {
			t.Errorf("Exchange of %d bytes gives %d bytes and %v, want %v", size, len(other), err, want)
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
