package local

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/dsnet/compress/bzip2"
	"github.com/kilnbuild/kiln/internal/dirfd"
	"github.com/kilnbuild/kiln/internal/until"
)

// emptyLog is the compressed form of nothing, as bzip2 writes it.
const emptyLog = "BZh9\x17rE8P\x90\x00\x00\x00\x00"

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

	patience time.Duration   // of close
	hurry    context.Context // ended when the goroutine is to stop
	stop     context.CancelFunc

	encoder *bzip2.Writer // of the goroutine
	buffer  *bufio.Writer
}

func (c *compressor) init(s *Store) {
	c.store = s
	c.next.L = &c.mu
	c.patience = closingTime
	c.hurry, c.stop = context.WithCancel(context.Background())
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
		if err := c.compress(job); err != nil && c.hurry.Err() == nil {
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

// closingTime is how long closing a store waits for logs to be compressed, which is
// enough for some ten megabytes. Then the rest stays plain: whoever waits for the
// process to end has no use for it.
const closingTime = time.Second

// close waits until all logs are compressed, or until that has taken too long.
func (c *compressor) close() {
	timer := time.AfterFunc(c.patience, c.stop)
	c.idle.Wait()
	timer.Stop()
	c.stop()
}

// bigLog is the size of a log, in bytes, after which what compressing it has taken
// of memory is given back.
const bigLog = 256 << 10

// compress replaces a log by its compressed form.
func (c *compressor) compress(job *compression) error {
	if err := c.hurry.Err(); err != nil {
		return err
	}
	plain, err := os.Open(job.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // another process has dropped it
	}
	if err != nil {
		return err
	}
	defer plain.Close()
	if same, err := job.isIn(plain); !same || err != nil {
		return err
	}
	var in io.Reader = bytes.NewReader(job.text)
	if job.text == nil {
		in = until.Reader(c.hurry, plain)
	}
	err = job.replace(plain, func(out io.Writer) error { return c.encode(out, in) })
	if job.written.Size() > bigLog {
		c.encoder = nil
	}
	return err
}

// replaceEmpty replaces a log with nothing in it, at once: there is nothing to do
// later. The log is still open.
func (c *compressor) replaceEmpty(job *compression, plain *os.File) {
	err := job.replace(plain, func(out io.Writer) error {
		_, err := io.WriteString(out, emptyLog)
		return err
	})
	if err != nil {
		c.store.opts.Warn(fmt.Errorf("compress build log: %w", explain(err)))
	}
}

// isIn tells whether a file has the log. Another process may have begun a log of the
// same derivation since ours was closed, even in an inode of the same number.
func (j *compression) isIn(f *os.File) (bool, error) {
	now, err := f.Stat()
	if err != nil {
		return false, err
	}
	if !os.SameFile(now, j.written) || now.Size() != j.written.Size() || !now.ModTime().Equal(j.written.ModTime()) {
		return false, nil
	}
	complete, err := tryFlock(f, lockShared)
	if !complete || err != nil {
		return false, err
	}
	return true, flock(f, unlocked)
}

// replace puts the compressed form, as encode writes it, in the place of the plain
// one, which is open, so that nothing else has its inode. As long as both are there,
// the plain one is what everybody reads.
func (j *compression) replace(plain *os.File, encode func(io.Writer) error) error {
	name := j.path + compressedSuffix
	out, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, logMode)
	if err != nil {
		return err
	}
	defer out.Close()
	err = errors.Join(out.Chmod(logMode), encode(out)) // whatever the process's umask is
	unlock, lerr := lockLogs(filepath.Dir(j.path))
	if lerr != nil {
		return errors.Join(err, lerr)
	}
	defer unlock()
	// Another process may have begun a log of the same derivation, or ended it.
	if err == nil && isFile(j.path, plain) && isFile(name, out) {
		return os.Remove(j.path)
	}
	if isFile(name, out) {
		err = errors.Join(err, os.Remove(name))
	}
	return err
}

// isFile tells whether a name is that of an open file.
func isFile(name string, f *os.File) bool {
	known, err := f.Stat()
	if err != nil {
		return false
	}
	now, err := os.Lstat(name)
	return err == nil && os.SameFile(now, known)
}

// encode writes what it reads, compressed. The encoder is used again, since to make
// one costs more than to compress a short log. Blocks are small: larger ones
// compress logs by less than a tenth better, and take ten times the memory.
func (c *compressor) encode(out io.Writer, in io.Reader) (err error) {
	if c.encoder == nil {
		c.buffer = bufio.NewWriterSize(nil, 16<<10)
		if c.encoder, err = bzip2.NewWriter(nil, &bzip2.WriterConfig{Level: bzip2.BestSpeed}); err != nil {
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
