package binarycache

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// files are what a cache is made of. Names are relative, with slashes. What is not
// there is an error that wraps fs.ErrNotExist.
type files interface {
	// open gives the content of a file, from where it may be read once.
	open(ctx context.Context, name string) (io.ReadCloser, error)
	// exists tells whether there is a file.
	exists(ctx context.Context, name string) (bool, error)
	// spool makes a temporary file, which is put or removed.
	spool() (*os.File, error)
	// put makes a file of a spool, which is closed and gone afterwards. size is its
	// size. A file that is there is replaced.
	put(ctx context.Context, name, kind string, spool *os.File, size int64) error
}

// distant are files that are not on this machine.
type distant interface {
	files
	// address is what is remembered of them by.
	address() string
	// idle ends connections that nobody uses.
	idle()
}

// A directory has the files of a cache.
type directory struct{ path string }

func (d directory) file(name string) string { return filepath.Join(d.path, filepath.FromSlash(name)) }

func (d directory) open(_ context.Context, name string) (io.ReadCloser, error) {
	f, err := os.Open(d.file(name))
	if err != nil {
		return nil, err
	}
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() {
		f.Close()
		return nil, errors.Join(err, fmt.Errorf("'%s' is not a regular file", d.file(name)))
	}
	return f, nil
}

func (d directory) exists(_ context.Context, name string) (bool, error) {
	_, err := os.Stat(d.file(name))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

func (d directory) spool() (*os.File, error) { return os.CreateTemp(d.path, ".kiln-*.tmp") }

func (d directory) put(_ context.Context, name, _ string, spool *os.File, _ int64) error {
	err := errors.Join(spool.Chmod(0o644), spool.Sync(), spool.Close())
	if err == nil {
		err = os.MkdirAll(filepath.Dir(d.file(name)), 0o755)
	}
	if err == nil {
		err = os.Rename(spool.Name(), d.file(name))
	}
	if err != nil {
		err = errors.Join(err, os.Remove(spool.Name()))
	}
	return err
}
