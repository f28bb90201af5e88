package hook

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"
)

// A job is a hook that is run once, to its end.
type job struct {
	setting string // that names the program
	program string
	args    []string
	env     []string // nil: this process's
	dir     string   // "" is this process's
	as      *syscall.Credential
	timeout time.Duration // 0 for none
	stdout  io.Writer
	stderr  io.Writer // nil: stdout, through the same pipe
	// spare leaves what is still running in the background once the program has
	// ended by itself and nobody has its output open any more.
	spare bool
}

// run runs the job until the program has ended and its output too. When ctx
// ends, when it takes too long, or when a taker of output fails, the program is
// killed, with its group, and the error says why.
func (j *job) run(ctx context.Context) error {
	cmd := exec.Command(j.program, j.args...)
	failed := func(err error) error { return fmt.Errorf("run the %s '%s': %w", j.setting, cmd.Path, err) }
	if ctx.Err() != nil {
		return failed(context.Cause(ctx))
	}
	cmd.Env, cmd.Dir = j.env, j.dir
	streams := []*stream{{to: j.stdout}}
	if j.stderr != nil {
		streams = append(streams, &stream{to: j.stderr})
	}
	defer func() {
		for _, s := range streams {
			s.close()
		}
	}()
	for _, s := range streams {
		if err := s.open(); err != nil {
			return failed(err)
		}
	}
	cmd.Stdout, cmd.Stderr = streams[0].w, streams[len(streams)-1].w
	p, err := start(j.setting, cmd, j.as)
	if err != nil {
		return err
	}

	asked := ctx
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if j.timeout > 0 {
		var stop context.CancelFunc
		ctx, stop = context.WithTimeoutCause(ctx, j.timeout, timedOut(cmd.Path, j.timeout))
		defer stop()
	}
	var copying sync.WaitGroup
	for _, s := range streams {
		copying.Go(func() {
			if err := s.copy(); err != nil {
				cancel(err)
			}
		})
	}
	ended := make(chan struct{})
	go func() {
		copying.Wait()
		<-p.exited
		close(ended)
	}()
	select {
	case <-ended:
		// Output that could not be taken ends as well.
		if ctx.Err() == nil {
			return p.end(!j.spare)
		}
	case <-ctx.Done():
	}
	p.signal(syscall.SIGKILL)
	for _, s := range streams {
		drain(s.r)
	}
	<-ended
	_ = p.end(true) // we killed it, and know why
	if asked.Err() != nil {
		return failed(context.Cause(asked))
	}
	return context.Cause(ctx)
}

// A stream is a pipe for a program's output, and who takes it.
type stream struct {
	to   io.Writer
	r, w *os.File
}

func (s *stream) open() (err error) {
	s.r, s.w, err = os.Pipe()
	return err
}

func (s *stream) close() {
	for _, f := range []*os.File{s.r, s.w} {
		if f != nil {
			f.Close()
		}
	}
}

// copy hands on what comes until nobody holds the other end any more.
func (s *stream) copy() error {
	// Ours must not be what keeps it open.
	s.w.Close()
	return pump(s.r, func(p []byte) error {
		_, err := s.to.Write(p)
		return err
	})
}
