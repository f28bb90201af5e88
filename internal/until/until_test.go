package until

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestReaderAndWriter(t *testing.T) {
	ctx, cancel := context.WithCancelCause(t.Context())
	r := Reader(ctx, strings.NewReader("abcdef"))
	var b bytes.Buffer
	w := Writer(ctx, &b)
	if _, err := io.CopyN(w, r, 3); err != nil || b.String() != "abc" {
		t.Fatalf("%q, %v", b.String(), err)
	}
	over := errors.New("it is over")
	cancel(over)
	if _, err := r.Read(make([]byte, 1)); err != over {
		t.Errorf("reading: %v", err)
	}
	if _, err := w.Write([]byte("d")); err != over || b.Len() != 3 {
		t.Errorf("writing: %v, and it has %q", err, b.String())
	}
}

func TestEach(t *testing.T) {
	const most = 4
	var running, called atomic.Int64
	call := func(fails int) func(context.Context, int) error {
		return func(ctx context.Context, i int) error {
			defer running.Add(-1)
			if running.Add(1) > most {
				t.Error("too many at once")
			}
			called.Add(1)
			if i == fails {
				return errors.New("it fails")
			}
			return nil
		}
	}
	if err := Each(t.Context(), 100, most, call(-1)); err != nil || called.Load() != 100 {
		t.Errorf("%d calls, %v", called.Load(), err)
	}
	if err := Each(t.Context(), 0, most, call(-1)); err != nil || called.Load() != 100 {
		t.Errorf("%d calls, %v", called.Load(), err)
	}
	called.Store(0)
	if err := Each(t.Context(), 100_000, most, call(10)); err == nil || err.Error() != "it fails" || called.Load() == 100_000 {
		t.Errorf("%d calls, %v", called.Load(), err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	over := errors.New("it is over")
	cancel(over)
	called.Store(0)
	if err := Each(ctx, 10, most, call(-1)); err != over || called.Load() != 0 {
		t.Errorf("%d calls, %v", called.Load(), err)
	}
}
