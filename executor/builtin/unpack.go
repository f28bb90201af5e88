package builtin

import (
	"archive/tar"
	"bufio"
	"bytes"
	"compress/bzip2"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/therootcompany/xz"
)

// unpackChannel makes the tree of a tar file with one directory, under another
// name. (Nix: builtin:unpack-channel.)
func (t *task) unpackChannel() error {
	out, err := t.out()
	if err != nil {
		return err
	}
	name, err := t.attribute("channelName")
	if err != nil {
		return err
	}
	src, err := t.attribute("src")
	if err != nil {
		return err
	}
	if name == "" || name == "." || name == ".." || strings.ContainsRune(name, filepath.Separator) {
		return fmt.Errorf("channelName is not allowed to contain filesystem separators, got \"%s\"", name)
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	if err := t.unpackTar(src, out); err != nil {
		return fmt.Errorf("unpack '%s': %w", src, err)
	}
	entries, err := os.ReadDir(out)
	if err != nil {
		return err
	}
	switch len(entries) {
	case 0:
		return fmt.Errorf("channel tarball '%s' is empty", src)
	case 1:
		return os.Rename(filepath.Join(out, entries[0].Name()), filepath.Join(out, name))
	}
	return fmt.Errorf("channel tarball '%s' contains more than one file", src)
}

// unpackTar unpacks a tar file, compressed or not, into a directory. Nothing
// outside of it is written to or linked to, whatever the file says.
func (t *task) unpackTar(src, dir string) error {
	f, err := os.Open(src)
	if err != nil {
		return err
	}
	defer f.Close()
	content, err := decompress(f)
	if err != nil {
		return err
	}
	defer content.Close()
	root, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	members := tar.NewReader(content)
	for {
		if err := t.ctx.Err(); err != nil {
			return err
		}
		header, err := members.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := unpackMember(root, header, members); err != nil {
			return fmt.Errorf("member '%s': %w", header.Name, err)
		}
	}
}

// maxWindow bounds what a decoder may keep to look back at, in bytes. It is what
// `xz -9` and `zstd --ultra -22` ask for.
const maxWindow = 128 << 20

// decompress finds out by its first bytes how a file is compressed.
func decompress(f io.Reader) (io.ReadCloser, error) {
	in := bufio.NewReaderSize(f, 64<<10)
	first, err := in.Peek(6)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	begins := func(magic string) bool { return bytes.HasPrefix(first, []byte(magic)) }
	switch {
	case begins("\x1f\x8b"):
		return gzip.NewReader(in)
	case begins("BZh"):
		return io.NopCloser(bzip2.NewReader(in)), nil
	case begins("\xfd7zXZ\x00"):
		r, err := xz.NewReader(in, maxWindow)
		return io.NopCloser(r), err
	case begins("\x28\xb5\x2f\xfd"):
		r, err := zstd.NewReader(in, zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderConcurrency(1))
		if err != nil {
			return nil, err
		}
		return r.IOReadCloser(), nil
	}
	return io.NopCloser(in), nil
}

// memberPath is the place of a member below the directory, "." for that itself.
func memberPath(name string) (string, error) {
	for part := range strings.SplitSeq(name, "/") {
		if part == ".." {
			return "", errors.New("it leads out of the archive by '..'")
		}
	}
	return path.Clean("./" + strings.TrimLeft(name, "/")), nil
}

// unpackMember makes one member of an archive. That no name leads out of root
// through a symbolic link either, os.Root sees to.
func unpackMember(root *os.Root, h *tar.Header, content io.Reader) error {
	name, err := memberPath(h.Name)
	if err != nil {
		return err
	}
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	if h.Typeflag == tar.TypeDir {
		return root.MkdirAll(name, 0o755)
	}
	if name == "." {
		return errors.New("it is the top of the archive and no directory")
	}
	if err := root.MkdirAll(path.Dir(name), 0o755); err != nil {
		return err
	}
	// A later member of the same name takes the place of the first.
	if err := root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	switch h.Typeflag {
	case tar.TypeReg:
		mode := fs.FileMode(0o644)
		if h.Mode&0o111 != 0 {
			mode = 0o755
		}
		f, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
		if err != nil {
			return err
		}
		_, err = io.Copy(f, content)
		return errors.Join(err, f.Close())
	case tar.TypeSymlink:
		return root.Symlink(h.Linkname, name)
	case tar.TypeLink:
		target, err := memberPath(h.Linkname)
		if err != nil {
			return err
		}
		return root.Link(target, name)
	}
	return fmt.Errorf("it is no file, directory or link, but of type '%c'", h.Typeflag)
}
