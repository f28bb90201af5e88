package local

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
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
	file  *os.File // nil before anything is written
	// text has all that was written, unless that is more than smallLog.
	text []byte
	size int64
}

// smallLog is the length of logs, in bytes, that are kept in memory to be
// compressed. Most logs are shorter, and many are empty.
const smallLog = 8 << 10

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
	w := &LogWriter{store: s, path: s.logPath(drv)}
	s.logs.cancel(w.path)
	for _, name := range []string{w.path, w.path + compressedSuffix} {
		if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
	return w, nil
}

// Write adds to the log.
func (w *LogWriter) Write(p []byte) (int, error) {
	if w.file == nil && len(p) > 0 {
		f, err := w.create(w.path)
		if err != nil {
			return 0, fmt.Errorf("write build log: %w", explain(err))
		}
		w.file = f
	}
	if w.size += int64(len(p)); w.size <= smallLog {
		w.text = append(w.text, p...)
	} else {
		w.text = nil
	}
	if len(p) == 0 {
		return 0, nil
	}
	return w.file.Write(p)
}

// create makes a file of the log. One that is there was begun after ours, by
// somebody else.
func (w *LogWriter) create(name string) (*os.File, error) {
	f, err := createLogFile(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		err = makeDirs(filepath.Dir(name), 0o755)
	case errors.Is(err, fs.ErrExist):
		err = os.Remove(name)
	default:
		return f, err
	}
	if err != nil {
		return nil, err
	}
	return createLogFile(name)
}

// createLogFile makes a new file, with permissions that the process's umask has
// no part in.
func createLogFile(name string) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return nil, err
	}
	if err := f.Chmod(0o644); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// emptyLog is the compressed form of nothing, as bzip2 writes it.
const emptyLog = "BZh9\x17rE8P\x90\x00\x00\x00\x00"

// Close ends the log. If logs are compressed, that happens later.
func (w *LogWriter) Close() error {
	if err := w.close(); err != nil {
		return fmt.Errorf("close build log: %w", explain(err))
	}
	return nil
}

func (w *LogWriter) close() error {
	compress := w.store.opts.CompressLogs
	if w.file == nil {
		name, text := w.path, ""
		if compress {
			name, text = w.path+compressedSuffix, emptyLog
		}
		f, err := w.create(name)
		if err != nil {
			return err
		}
		_, err = f.WriteString(text)
		return errors.Join(err, f.Close())
	}
	written, err := w.file.Stat()
	if err := errors.Join(err, w.file.Close()); err != nil || !compress {
		return err
	}
	job := &compression{path: w.path, written: written}
	if w.size <= smallLog {
		job.text = w.text
	}
	return w.store.logs.add(job)
}

// compression is a log that is to be compressed.
type compression struct {
	path    string
	written fs.FileInfo // the file that is to be replaced
	text    []byte      // what is in it, nil if that is long
}

// compressor compresses logs, one after the other, on a goroutine that exists
// while there are any.
type compressor struct {
	store *Store

	mu      sync.Mutex
	queue   []*compression
	current *compression // that the goroutine works at
	running bool
	next    sync.Cond // current has changed
	idle    sync.WaitGroup

	encoder *encoder.Writer // of the goroutine
	buffer  *bufio.Writer
}

func (c *compressor) init(s *Store) {
	c.store = s
	c.next.L = &c.mu
}

// add compresses a log some time later.
func (c *compressor) add(job *compression) error {
	if err := c.store.journal.note(transientLog, job.path); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.queue = append(c.queue, job)
	if !c.running {
		c.running = true
		c.idle.Go(c.run)
	}
	return nil
}

// cancel sees to it that nobody here works at a log.
func (c *compressor) cancel(path string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, job := range c.queue {
		if job.path == path {
			c.queue = slices.Delete(c.queue, i, i+1)
			c.done(job)
			break
		}
	}
	for c.current != nil && c.current.path == path {
		c.next.Wait()
	}
}

func (c *compressor) run() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for len(c.queue) > 0 {
		job := c.queue[0]
		c.queue, c.current = c.queue[1:], job
		c.mu.Unlock()
		if err := c.compress(job); err != nil {
			c.store.opts.Warn(fmt.Errorf("compress build log: %w", explain(err)))
		}
		c.done(job)
		c.mu.Lock()
		c.current = nil
		c.next.Broadcast()
	}
	c.running = false
}

func (c *compressor) done(job *compression) {
	if err := c.store.journal.done(transientLog, job.path); err != nil {
		c.store.opts.Warn(err)
	}
}

// wait waits until all logs are compressed.
func (c *compressor) wait() { c.idle.Wait() }

// bigLog is the size of a log, in bytes, after which what compressing it has taken
// of memory is given back.
const bigLog = 256 << 10

// compress puts the compressed form in the place of the plain one. As long as
// both are there, the plain one is what everybody reads.
func (c *compressor) compress(job *compression) error {
	var in io.Reader = bytes.NewReader(job.text)
	if job.text == nil {
		f, err := os.Open(job.path)
		if err != nil {
			return err
		}
		defer f.Close()
		in = f
	}
	name := job.path + compressedSuffix
	out, err := createLogFile(name)
	if err != nil {
		return err
	}
	err = c.encode(out, in)
	ours, serr := out.Stat()
	err = errors.Join(err, serr, out.Close())
	if job.written.Size() > bigLog {
		c.encoder = nil
	}
	// Another process may have begun a log of the same derivation, or ended it.
	if err != nil || !isFile(job.path, job.written) {
		if ours != nil && isFile(name, ours) {
			err = errors.Join(err, os.Remove(name))
		}
		return err
	}
	return os.Remove(job.path)
}

// isFile tells whether a name is that of a known file.
func isFile(name string, known fs.FileInfo) bool {
	now, err := os.Lstat(name)
	return err == nil && os.SameFile(now, known)
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

// tidyLog is for a log that a dead process was going to compress: the plain form
// is complete, the other may not be.
func tidyLog(dir int, name string) error {
	var st dirfd.Stat
	if err := dirfd.StatAt(dir, name, &st); err != nil {
		return err
	}
	return dirfd.Unlink(dir, name+compressedSuffix)
}
