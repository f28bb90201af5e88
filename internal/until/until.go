package until

import (
	"context"
	"io"
	"sync"
)

// Reader gives what reads from r, and fails with the cause of ctx when that has ended. A
// call that blocks in r is not ended.
func Reader(ctx context.Context, r io.Reader) io.Reader { return reader{ctx, r} }

type reader struct {
	ctx context.Context
	r   io.Reader
}

func (r reader) Read(p []byte) (int, error) {
	if err := context.Cause(r.ctx); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}

// Writer gives what writes to w, and fails with the cause of ctx when that has ended. A
// call that blocks in w is not ended.
func Writer(ctx context.Context, w io.Writer) io.Writer { return writer{ctx, w} }

type writer struct {
	ctx context.Context
	w   io.Writer
}

func (w writer) Write(p []byte) (int, error) {
	if err := context.Cause(w.ctx); err != nil {
		return 0, err
	}
	return w.w.Write(p)
}

// Each calls f for all numbers below n, in their order and up to most at once, until one
// call fails or ctx ends. It gives the first error, or the cause of ctx, when all calls
// have returned. The context that f gets ends with that error.
func Each(ctx context.Context, n, most int, f func(ctx context.Context, i int) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var calls sync.WaitGroup
	next := make(chan int)
	for range min(most, n) {
		calls.Go(func() {
			for i := range next {
				if err := f(ctx, i); err != nil {
					cancel(err)
				}
			}
		})
	}
	for i := 0; i < n && ctx.Err() == nil; i++ {
		next <- i
	}
	close(next)
	calls.Wait()
	return context.Cause(ctx)
}
