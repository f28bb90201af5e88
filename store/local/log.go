package local

import (
	"bufio"
	"compress/bzip2"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	encoder "github.com/dsnet/compress/bzip2"
	"github.com/kilnbuild/kiln/internal/dirfd"
	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/store"
)

// compressedSuffix ends the name of a compressed log.
const compressedSuffix = ".bz2"

// logPath is where the log of a derivation is while it is not compressed.
func (s *Store) logPath(drv nix.StorePath) string {
	return filepath.Join(s.layout.log, "drvs", string(drv[:2]), string(drv[2:]))
}

// unknownLog is the error for a derivation without a log.
type unknownLog struct{ drv string }

func (e *unknownLog) Error() string { return fmt.Sprintf("build log of '%s' is not available", e.drv) }
func (e *unknownLog) Unwrap() error { return store.ErrNotFound }

// BuildLog implements store.LogStore. It finds the log in each of the places and
// forms in which Nix has ever written logs.
func (s *Store) BuildLog(_ context.Context, drv nix.StorePath) (io.ReadCloser, error) {
	if _, err := nix.ParseStorePath(string(drv)); err != nil {
		return nil, err
	}
	split := s.logPath(drv)
	whole := filepath.Join(s.layout.log, "drvs", string(drv))
	for _, plain := range []string{split, whole} {
		for _, name := range []string{plain, plain + compressedSuffix} {
			f, err := os.Open(name)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return nil, fmt.Errorf("read build log: %w", err)
			}
			if name == plain {
				return f, nil
			}
			return newLogReader(f)
		}
	}
	return nil, &unknownLog{s.opts.StoreDir.Join(drv)}
}

// logReader reads a compressed log.
type logReader struct {
	io.Reader
	file *os.File
}

func (r *logReader) Close() error { return r.file.Close() }

func newLogReader(f *os.File) (io.ReadCloser, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	if info.Size() == 0 {
		return f, nil // Nix was killed before it wrote anything
	}
	return &logReader{bzip2.NewReader(bufio.NewReader(f)), f}, nil
}

// LogWriter takes the log of one build. It is not safe for concurrent use.
type LogWriter struct {
	store *Store
	path  string
	file  *os.File
}

// CreateLog begins the log of a derivation, and drops an earlier one. What is
// written can be read at once. The caller closes the log, and the store later.
func (s *Store) CreateLog(drv nix.StorePath) (*LogWriter, error) {
	if err := s.changes(); err != nil {
		return nil, err
	}
	w, err := s.createLog(drv)
	if err != nil {
		return nil, fmt.Errorf("create log of '%s': %w", s.opts.StoreDir.Join(drv), explain(err))
	}
	return w, nil
}

func (s *Store) createLog(drv nix.StorePath) (*LogWriter, error) {
	if _, err := nix.ParseStorePath(string(drv)); err != nil {
		return nil, err
	}
	path := s.logPath(drv)
	// Of the two forms of a log the plain one counts, so it must not be there with
	// the compressed one of another build.
	if err := os.Remove(path + compressedSuffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if errors.Is(err, fs.ErrNotExist) {
		if err := makeDirs(filepath.Dir(path), 0o755); err != nil {
			return nil, err
		}
		f, err = os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	}
	if err != nil {
		return nil, err
	}
	return &LogWriter{store: s, path: path, file: f}, nil
}

// Write adds to the log.
func (w *LogWriter) Write(p []byte) (int, error) { return w.file.Write(p) }

// Close ends the log. If logs are compressed, that happens later.
func (w *LogWriter) Close() error {
	if err := w.file.Close(); err != nil {
		return fmt.Errorf("close build log: %w", err)
	}
	if !w.store.opts.CompressLogs {
		return nil
	}
	return w.store.logs.add(w.path)
}

// compressor compresses logs, one after the other, on a goroutine that exists
// while there are any.
type compressor struct {
	store *Store

	mu      sync.Mutex
	queue   []string
	running bool
	idle    sync.WaitGroup

	encoder *encoder.Writer // of the goroutine
	buffer  *bufio.Writer
}

func (c *compressor) init(s *Store) { c.store = s }

// add compresses a log some time later.
func (c *compressor) add(path string) error {
	if err := c.store.journal.note(transientLog, path); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.queue = append(c.queue, path)
	if !c.running {
		c.running = true
		c.idle.Go(c.run)
	}
	return nil
}

func (c *compressor) run() {
	for {
		c.mu.Lock()
		if len(c.queue) == 0 {
			c.running = false
			c.mu.Unlock()
			return
		}
		path := c.queue[0]
		c.queue = c.queue[1:]
		c.mu.Unlock()
		if err := c.compress(path); err != nil {
			c.store.opts.Warn(fmt.Errorf("compress build log: %w", explain(err)))
		}
		if err := c.store.journal.done(transientLog, path); err != nil {
			c.store.opts.Warn(err)
		}
	}
}

// wait waits until all logs are compressed.
func (c *compressor) wait() { c.idle.Wait() }

// bigLog is the size of a log, in bytes, after which what compressing it has taken
// of memory is given back.
const bigLog = 256 << 10

func (c *compressor) compress(path string) (err error) {
	in, err := os.Open(path)
	if err != nil {
		return err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return err
	}
	temp := path + partSuffix
	out, err := os.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return err
	}
	if err = errors.Join(c.encode(out, in), out.Close()); err == nil {
		err = os.Rename(temp, path+compressedSuffix)
	}
	if err != nil {
		return errors.Join(err, os.Remove(temp))
	}
	if info.Size() > bigLog {
		c.encoder = nil
	}
	return os.Remove(path)
}

// encode writes what it reads, compressed. The encoder is used again, since to make
// one costs more than to compress a short log. Blocks are small: larger ones
// compress logs by less than a tenth better, and take ten times the memory.
func (c *compressor) encode(out io.Writer, in io.Reader) (err error) {
	if c.encoder == nil {
		c.buffer = bufio.NewWriterSize(nil, 16<<10)
		if c.encoder, err = encoder.NewWriter(nil, &encoder.WriterConfig{Level: encoder.BestSpeed}); err != nil {
			return err
		}
	}
	c.buffer.Reset(out)
	if err := c.encoder.Reset(c.buffer); err != nil {
		return err
	}
	if _, err = io.Copy(c.encoder, in); err == nil {
		err = c.encoder.Close()
	}
	return errors.Join(err, c.buffer.Flush())
}

// partSuffix ends the name of a log that is being compressed.
const partSuffix = compressedSuffix + ".part"

// tidyLog is for a log whose compression a dead process has left: what is
// complete stays, and one form of it.
func tidyLog(dir int, name string) error {
	err := dirfd.Unlink(dir, name+partSuffix)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	var st dirfd.Stat
	if err := dirfd.StatAt(dir, name+compressedSuffix, &st); err != nil {
		return err
	}
	return dirfd.Unlink(dir, name)
}
