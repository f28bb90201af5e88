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

	"github.com/kilnbuild/kiln/internal/until"
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

// AddBuildLog keeps a log that was written elsewhere, which it reads to its end. A log
// that is there already stays.
func (s *Store) AddBuildLog(ctx context.Context, drv nix.StorePath, log io.Reader) error {
	have, err := s.BuildLog(ctx, drv)
	if err == nil {
		_, err = io.Copy(io.Discard, until.Reader(ctx, log))
		return errors.Join(err, have.Close())
	}
	if !errors.Is(err, store.ErrNotFound) {
		return err
	}
	w, err := s.CreateLog(drv)
	if err != nil {
		return err
	}
	if _, err := io.Copy(w, until.Reader(ctx, log)); err != nil {
		return errors.Join(fmt.Errorf("add build log of '%s': %w", s.opts.StoreDir.Join(drv), err), w.file.Close(), os.Remove(w.path))
	}
	return w.Close()
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
	// file is locked (flock) as long as it may grow. That is how those who follow the
	// log, in whatever process, learn of its end, however it comes.
	file *os.File
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
	unlock, err := lockLogs(filepath.Dir(w.path))
	if err != nil {
		return nil, err
	}
	defer unlock()
	if err := os.Remove(w.path + compressedSuffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	if w.file, err = createLogFile(w.path); err != nil {
		return nil, err
	}
	// Nobody but our own user can open the file yet, so nobody else can have it locked.
	if err := errors.Join(flock(w.file, lockExclusive), w.file.Chmod(logMode)); err != nil {
		return nil, errors.Join(err, w.file.Close(), os.Remove(w.path))
	}
	return w, nil
}

// lockLogs makes a directory of logs, and waits until no other kiln puts one file in
// the place of another there.
func lockLogs(dir string) (unlock func(), err error) {
	f, err := os.Open(dir)
	if errors.Is(err, fs.ErrNotExist) {
		if err = makeDirs(dir, 0o755); err == nil {
			f, err = os.Open(dir)
		}
	}
	if err != nil {
		return nil, err
	}
	if err := flock(f, lockExclusive); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return func() { f.Close() }, nil // which unlocks it
}

// Write adds to the log.
func (w *LogWriter) Write(p []byte) (int, error) {
	if w.size += int64(len(p)); w.size <= smallLog {
		w.text = append(w.text, p...)
	} else {
		w.text = nil
	}
	return w.file.Write(p)
}

// The permissions of logs. While a log is being begun they are begunLogMode.
const (
	logMode      = 0o644
	begunLogMode = 0o600
)

// createLogFile makes a new file with the permissions begunLogMode, and replaces an
// older one.
func createLogFile(name string) (f *os.File, err error) {
	// Other processes may make and remove logs of the same name meanwhile.
	for range logAttempts {
		f, err = os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, begunLogMode)
		var cleared error
		switch {
		case errors.Is(err, fs.ErrNotExist):
			cleared = makeDirs(filepath.Dir(name), 0o755)
		case errors.Is(err, fs.ErrExist):
			cleared = os.Remove(name)
		default:
			return f, err
		}
		if cleared != nil && !errors.Is(cleared, fs.ErrNotExist) {
			return nil, cleared
		}
	}
	return nil, err
}

// logAttempts is how often createLogFile tries.
const logAttempts = 10

// Close ends the log. If logs are compressed, that happens later.
func (w *LogWriter) Close() error {
	if err := w.close(); err != nil {
		return fmt.Errorf("close build log: %w", explain(err))
	}
	return nil
}

func (w *LogWriter) close() error {
	if !w.store.opts.CompressLogs {
		return w.file.Close()
	}
	written, err := w.file.Stat()
	if err != nil {
		return errors.Join(err, w.file.Close())
	}
	job := &compression{path: w.path, written: written}
	if w.size <= smallLog {
		job.text = w.text
	}
	if w.size == 0 {
		w.store.logs.replaceEmpty(job, w.file)
		return w.file.Close()
	}
	if err := w.file.Close(); err != nil {
		return err
	}
	return w.store.logs.add(job)
}
