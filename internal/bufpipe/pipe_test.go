package bufpipe

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"testing"
	"testing/iotest"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestStream sends some megabytes in pieces of all sizes, and reads them in others.
func TestStream(t *testing.T) {
	content := make([]byte, 5<<20)
	rand.NewChaCha8([32]byte{1}).Read(content)
	for _, most := range []int{1 << 10, 100 << 10, 1 << 20} {
		r, w := New()
		go func() {
			random := rand.New(rand.NewPCG(1, uint64(most)))
			for rest := content; len(rest) > 0; {
				n := min(random.IntN(most+1), len(rest))
				if wrote, err := w.Write(rest[:n]); wrote != n || err != nil {
					t.Errorf("Write of %d: %d, %v", n, wrote, err)
				}
				rest = rest[n:]
			}
			w.Close()
		}()
		random := rand.New(rand.NewPCG(2, uint64(most)))
		sum := sha256.New()
		var err error
		for b := make([]byte, most+1); err == nil; {
			var n int
			n, err = r.Read(b[:random.IntN(most+1)])
			sum.Write(b[:n])
		}
		if want := sha256.Sum256(content); err != io.EOF || !bytes.Equal(sum.Sum(nil), want[:]) {
			t.Errorf("pieces of up to %d: other bytes arrived, %v", most, err)
		}
		r.Close()
		if r.p.ring != nil {
			t.Error("the memory was kept")
		}
	}
	r, w := New()
	go func() { w.Write(content[:600<<10]); w.Close() }()
	if err := iotest.TestReader(r, content[:600<<10]); err != nil {
		t.Error(err)
	}
}

var errMine = errors.New("mine")

// TestAhead writes without anybody reading, as much as there is room for.
func TestAhead(t *testing.T) {
	r, w := New()
	if n, err := w.Write(make([]byte, room)); n != room || err != nil {
		t.Fatalf("%d, %v", n, err)
	}
	w.CloseWithError(errMine)
	w.CloseWithError(nil)
	if n, err := w.Write([]byte("x")); n != 0 || err != io.ErrClosedPipe {
		t.Errorf("Write after Close: %d, %v", n, err)
	}
	if b, err := io.ReadAll(r); len(b) != room || err != errMine {
		t.Errorf("%d bytes, %v", len(b), err)
	}
}

// TestReaderCloses wakes who writes into a full pipe, with the error.
func TestReaderCloses(t *testing.T) {
	for _, want := range []error{errMine, nil} {
		r, w := New()
		ended := make(chan error)
		go func() {
			n, err := w.Write(make([]byte, 3*room))
			if n > room {
				t.Errorf("%d bytes were written", n)
			}
			ended <- err
		}()
		r.CloseWithError(want)
		if want == nil {
			want = io.ErrClosedPipe
		}
		if err := <-ended; err != want {
			t.Errorf("%v, want %v", err, want)
		}
		if n, err := r.Read(make([]byte, 1)); n != 0 || err != io.ErrClosedPipe {
			t.Errorf("Read after Close: %d, %v", n, err)
		}
		w.Close()
		if w.p.ring != nil {
			t.Error("the memory was kept")
		}
	}
}

// TestWriterCloses wakes who reads from an empty pipe, and who writes into a full one.
func TestWriterCloses(t *testing.T) {
	r, w := New()
	ended := make(chan error)
	go func() {
		_, err := r.Read(make([]byte, 1))
		ended <- err
	}()
	w.CloseWithError(errMine)
	if err := <-ended; err != errMine {
		t.Error(err)
	}
	r, w = New()
	go func() {
		_, err := w.Write(make([]byte, 3*room))
		ended <- err
	}()
	w.Close()
	if err := <-ended; err != io.ErrClosedPipe {
		t.Error(err)
	}
	r.Close()
}

func BenchmarkPipe(b *testing.B) {
	for _, kind := range []struct {
		name string
		make func() (io.Reader, io.WriteCloser)
	}{
		{"bufpipe", func() (io.Reader, io.WriteCloser) { r, w := New(); return r, w }},
		{"io", func() (io.Reader, io.WriteCloser) { r, w := io.Pipe(); return r, w }},
	} {
		b.Run(kind.name, func(b *testing.B) {
			const size = 64 << 20
			b.SetBytes(size)
			for b.Loop() {
				r, w := kind.make()
				go func() {
					sum, block := sha256.New(), make([]byte, 128<<10)
					for range size / len(block) {
						sum.Write(block)
						w.Write(block)
					}
					w.Close()
				}()
				io.Copy(sha256.New(), r)
			}
		})
	}
}
