package local

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/kilnbuild/kiln/nix"
)

// maxTempRoots bounds how much of a file with temporary roots is read, in bytes: a
// million of them.
const maxTempRoots = 256 << 20

// TempRoots gives the temporary roots of all processes, this one among them, by the
// names of the files that they are in, which begin with the number of a process.
func (s *Store) TempRoots() (map[string][]nix.StorePath, error) { return s.readTempRoots() }

// readTempRoots reads the files of living processes, and removes those of dead ones
// if the store may be changed. A file that cannot be read is an error: what is in it
// may be anything.
func (s *Store) readTempRoots() (map[string][]nix.StorePath, error) {
	dir := s.layout.tempRoots()
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read temporary roots: %w", explain(err))
	}
	roots := make(map[string][]nix.StorePath)
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") {
			continue
		}
		paths, err := s.readTempRootFile(filepath.Join(dir, e.Name()))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read temporary roots in '%s': %w", filepath.Join(dir, e.Name()), explain(err))
		}
		if len(paths) > 0 {
			roots[e.Name()] = paths
		}
	}
	return roots, nil
}

func (s *Store) readTempRootFile(name string) ([]nix.StorePath, error) {
	flags := os.O_RDWR
	if s.opts.ReadOnly {
		flags = os.O_RDONLY
	}
	f, err := os.OpenFile(name, flags|openNoFollow, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		if err == nil {
			s.opts.Warn(fmt.Errorf("'%s' is no file with temporary roots", name))
		}
		return nil, err
	}
	dead, err := tryFlock(f, lockExclusive)
	if err != nil {
		return nil, err
	}
	if dead {
		if s.opts.ReadOnly {
			return nil, nil
		}
		if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		// Whoever has just made it and waits for its lock learns that it has gone.
		if _, err := f.WriteString("d"); err != nil && !isFull(err) {
			return nil, err
		}
		return nil, nil
	}
	data, err := io.ReadAll(io.LimitReader(f, maxTempRoots+1))
	if err != nil {
		return nil, err
	}
	if len(data) > maxTempRoots {
		return nil, fmt.Errorf("it has more than %d bytes", maxTempRoots)
	}
	paths, bad, why := parseTempRoots(s.opts.StoreDir, data)
	if bad > 0 {
		s.opts.Warn(fmt.Errorf("%d temporary roots in '%s' are none, the first of them since: %w", bad, name, why))
	}
	return paths, nil
}

// parseTempRoots reads the records of a file, each of which ends with a NUL. The last
// one may be on its way. Of those that are no store paths it gives the number, and what
// is wrong with the first.
func parseTempRoots(dir nix.StoreDir, data []byte) (paths []nix.StorePath, bad int, why error) {
	for {
		record, rest, complete := bytes.Cut(data, []byte{0})
		if !complete {
			return paths, bad, why
		}
		data = rest
		p, err := dir.Parse(string(record))
		if err != nil {
			if bad++; bad == 1 {
				why = err
			}
			continue
		}
		paths = append(paths, p)
	}
}
