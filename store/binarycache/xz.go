package binarycache

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strconv"
	"sync"
	"time"
)

// xz has a program of its own for what is large: there is no fast way in this language.
// What is small is unpacked here, and so is everything where the program is missing.
const (
	// xzWorthwhile is from which size on, in bytes of the archive, starting the program
	// takes less time than it saves.
	xzWorthwhile = 1 << 20
	// xzBlock is the size of the blocks that are written, in bytes. Their sizes stand in
	// them, so that readers can use several processors, each of which keeps a block in
	// memory. Files are 2 % larger than with the usual 24 MiB.
	xzBlock = 8 << 20
	// xzMemory is how much memory the program may take to unpack on several processors,
	// in bytes: as many of our own blocks as two of them need. What has larger ones is
	// unpacked on one. Many objects are fetched at once.
	xzMemory = 48 << 20
)

// xzProgram tells where the program is, and whether it is 5.4 or later: it then unpacks
// on several processors, and writes blocks with their sizes on one.
var xzProgram = sync.OnceValues(func() (path string, threads bool) {
	path, err := exec.LookPath("xz")
	if err != nil {
		return "", false
	}
	cmd := exec.Command(path, "--threads=+1", "--version")
	cmd.Env = xzEnvironment
	return path, cmd.Run() == nil
})

// xzEnvironment keeps options that are meant for people from having an effect.
var xzEnvironment = []string{"LC_ALL=C"}

// errNoXZ says that there is no such program.
var errNoXZ = errors.New("compression 'xz' needs the program xz, which is not installed; use 'zstd'")

// writeXZ compresses to w.
func (c compressor) writeXZ(ctx context.Context, w io.Writer) (io.WriteCloser, error) {
	path, threads := xzProgram()
	if path == "" {
		return nil, errNoXZ
	}
	words := []string{"--compress", "--stdout", "--format=xz", "--block-size=" + strconv.Itoa(xzBlock)}
	switch {
	case c.parallel:
		words = append(words, "--threads=0")
	case threads:
		words = append(words, "--threads=+1")
	default:
		words = append(words, "--threads=1")
	}
	if c.level >= 0 {
		words = append(words, "-"+strconv.Itoa(min(c.level, 9)))
	}
	cmd := exec.CommandContext(ctx, path, words...)
	cmd.Env, cmd.Stdout = xzEnvironment, w
	in, err := cmd.StdinPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		return nil, fmt.Errorf("start xz: %w", err)
	}
	return &xzWriter{in: bufio.NewWriterSize(in, 64<<10), pipe: in, cmd: cmd}, nil
}

type xzWriter struct {
	in   *bufio.Writer
	pipe io.Closer
	cmd  *exec.Cmd
}

func (x *xzWriter) Write(p []byte) (int, error) { return x.in.Write(p) }

func (x *xzWriter) Close() error {
	err := errors.Join(x.in.Flush(), x.pipe.Close())
	if failed := x.cmd.Wait(); failed != nil {
		err = fmt.Errorf("compress by xz: %w", failed)
	}
	return err
}

// readXZ unpacks r, which the caller closes after the reader.
func readXZ(ctx context.Context, r io.Reader) (io.ReadCloser, error) {
	path, threads := xzProgram()
	if path == "" {
		return nil, errNoXZ
	}
	words := []string{"--decompress", "--stdout", "--format=xz", "--memlimit-decompress=" + strconv.Itoa(maxWindow+xzMemory)}
	if threads {
		words = append(words, "--threads=0", "--memlimit-mt-decompress="+strconv.Itoa(xzMemory))
	}
	ctx, cancel := context.WithCancel(ctx)
	x := &xzReader{cmd: exec.CommandContext(ctx, path, words...), cancel: cancel, source: &source{r: r}}
	x.cmd.Env, x.cmd.Stdin, x.cmd.Stderr = xzEnvironment, x.source, &x.said
	// Who has ended does not wait for more to come; the caller then ends that.
	x.cmd.WaitDelay = time.Second
	out, err := x.cmd.StdoutPipe()
	if err == nil {
		widen(out)
		err = x.cmd.Start()
	}
	if err != nil {
		cancel()
		return nil, fmt.Errorf("start xz: %w", err)
	}
	x.out = out
	return x, nil
}

type xzReader struct {
	cmd    *exec.Cmd
	cancel context.CancelFunc
	source *source
	out    io.ReadCloser
	said   limitedBuffer
	err    error // after the end
}

// source keeps the error of reading what is compressed.
type source struct {
	r   io.Reader
	mu  sync.Mutex
	err error
}

func (s *source) Read(p []byte) (int, error) {
	n, err := s.r.Read(p)
	if err != nil && err != io.EOF {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.err = err
	}
	return n, err
}

func (s *source) failure() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// Read implements io.Reader.
func (x *xzReader) Read(p []byte) (int, error) {
	if x.err != nil {
		return 0, x.err
	}
	n, err := x.out.Read(p)
	if err == io.EOF {
		x.err = x.wait()
		err = x.err
	}
	return n, err
}

// wait waits for the end of the program, and gives io.EOF if it was a good one.
func (x *xzReader) wait() error {
	err := x.cmd.Wait()
	switch {
	case x.source.failure() != nil:
		return x.source.failure()
	case err != nil && x.said.Len() > 0:
		return fmt.Errorf("xz: %s", bytes.TrimSpace(x.said.Bytes()))
	case err != nil:
		return fmt.Errorf("xz: %w", err)
	}
	return io.EOF
}

// Close implements io.Closer.
func (x *xzReader) Close() error {
	x.cancel()
	if x.err == nil {
		x.out.Close()
		x.err = x.wait()
	}
	return nil
}

// limitedBuffer keeps the beginning of what is written to it.
type limitedBuffer struct{ bytes.Buffer }

func (b *limitedBuffer) Write(p []byte) (int, error) {
	const most = 500 // bytes
	b.Buffer.Write(p[:min(len(p), max(most-b.Len(), 0))])
	return len(p), nil
}
