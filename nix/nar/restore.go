package nar

import (
	"errors"
	"fmt"
	"io"
	"path"

	"github.com/kilnbuild/kiln/internal/dirfd"
	"github.com/kilnbuild/kiln/internal/rmtree"
)

// Permissions and time of every file in a store (Nix: canonicalisePathMetaData).
const (
	permFile       = 0o444
	permExecutable = 0o555
	permDirectory  = 0o555
	mtime          = 1 // seconds after the epoch
)

// RestoreOptions says how a tree is restored. The zero value is usable.
type RestoreOptions struct {
	// Limits are those of the archive.
	Limits Limits

	// Sync, if set, is called with each regular file and each directory when it is
	// finished, a directory after its entries. The descriptor belongs to Restore.
	// It is there for fsync. An error ends the restoration.
	Sync func(fd int) error
}

// Stats is what was restored.
type Stats struct {
	Inodes int64 // files, directories and symbolic links
	Bytes  int64 // content of the files
	Size   int64 // of the archive
}

// Restore makes the tree of the archive that begins with the next byte of r. It
// takes no byte behind the archive; r should be buffered. Nothing may exist at
// dst, the directory that is to hold it must.
//
// The tree is canonical: permissions 0444 and 0555, modification times 1, owner
// and group those of the process. Only single entries of directories that
// Restore made and holds open are named, none that exists already is written to,
// and a symbolic link is never followed. An entry that the format forbids is
// noticed before it is made.
//
// After an error, nothing is left at dst, unless it existed before. Memory does
// not grow with the archive but for the depth, and disk is taken as content
// arrives, whatever an archive says of its size. Restore blocks as long as r
// does: to cancel it, make r fail.
func Restore(dst string, r io.Reader, opts RestoreOptions) (Stats, error) {
	dir, name, err := dirfd.OpenParent(dst)
	if err != nil {
		return Stats{}, fmt.Errorf("restore %s: %w", dst, err)
	}
	defer dirfd.Close(dir)
	return restore(dir, name, dst, r, opts)
}

// RestoreAt is Restore to the entry name of the open directory dir, which stays
// open. Nothing but a single entry can be named.
func RestoreAt(dir int, name string, r io.Reader, opts RestoreOptions) (Stats, error) {
	return restore(dir, name, name, r, opts)
}

func restore(dir int, name, shown string, r io.Reader, opts RestoreOptions) (Stats, error) {
	if err := dirfd.CheckName(name); err != nil {
		return Stats{}, fmt.Errorf("restore %s: %w", shown, err)
	}
	t := &restorer{opts: opts, in: takeReader(r, opts.Limits), buf: takeBuffer()}
	defer giveBuffer(t.buf)
	defer giveReader(t.in)
	err := t.tree(dir, name)
	t.dirs.close()
	t.stats.Size = t.in.Offset()
	if err == nil {
		return t.stats, nil
	}
	if bad := (*FormatError)(nil); !errors.As(err, &bad) { // which says where by itself
		shown = path.Join(shown, t.in.Path())
	}
	err = fmt.Errorf("restore %s: %w", shown, err)
	if t.stats.Inodes > 0 {
		if left := rmtree.RemoveAt(dir, name); left != nil {
			err = fmt.Errorf("%w; and then: %w", err, left)
		}
	}
	return t.stats, err
}

// restorer is one restoration.
type restorer struct {
	opts  RestoreOptions
	in    *Reader
	dirs  descent
	buf   *buffer
	stats Stats // Inodes counts what exists, finished or not
	// exact and other have the permissions with which files are made as was asked for,
	// and those that are changed: by the process's mask, or by what the directory hands
	// down. That is the same for a whole tree.
	exact, other uint32
}

func (t *restorer) tree(dir int, name string) error {
	for {
		h, err := t.in.Next()
		if err != nil && err != io.EOF {
			return err
		}
		// A root has depth 0, so this ends all directories at the end.
		for t.dirs.depth() > h.Depth {
			if err := t.endDirectory(); err != nil {
				return err
			}
		}
		if err == io.EOF {
			return nil
		}
		if h.Depth > 0 {
			dir, name = t.dirs.fd(), h.Name
		}
		if err := t.node(dir, name, h); err != nil {
			return err
		}
	}
}

// node makes an entry of dir, of a directory only the beginning.
func (t *restorer) node(dir int, name string, h Header) error {
	switch h.Type {
	case Directory:
		if err := dirfd.Mkdir(dir, name, 0o700); err != nil {
			return err
		}
		t.stats.Inodes++
		fd, err := dirfd.OpenDir(dir, name)
		if err != nil {
			return err
		}
		return t.dirs.push(fd)
	case Symlink:
		if err := dirfd.SymlinkAt(h.Target, dir, name); err != nil {
			return err
		}
		t.stats.Inodes++
		return dirfd.SetMtimeAt(dir, name, mtime)
	}
	perm := uint32(permFile)
	if h.Executable {
		perm = permExecutable
	}
	fd, err := dirfd.Create(dir, name, perm)
	if err != nil {
		return err
	}
	t.stats.Inodes++
	if err = t.content(fd, h); err == nil {
		err = t.finishFile(fd, perm)
	}
	if closeErr := dirfd.Close(fd); err == nil {
		err = closeErr
	}
	return err
}

func (t *restorer) content(fd int, h Header) error {
	for left := h.Size; left > 0; {
		piece := t.buf[:min(left, bufferSize)]
		if _, err := io.ReadFull(t.in, piece); err != nil {
			return err
		}
		if err := dirfd.Write(fd, piece); err != nil {
			return err
		}
		left -= int64(len(piece))
		t.stats.Bytes += int64(len(piece))
	}
	return nil
}

// finishFile makes an open regular file canonical that was made with perm.
func (t *restorer) finishFile(fd int, perm uint32) error {
	if perm == t.exact {
		return t.stamp(fd)
	}
	if perm != t.other {
		var st dirfd.Stat
		if err := dirfd.Fstat(fd, &st); err != nil {
			return err
		}
		if st.Mode&0o7777 == perm {
			t.exact = perm
			return t.stamp(fd)
		}
		t.other = perm
	}
	return t.finish(fd, perm)
}

// endDirectory finishes the innermost directory and leaves it.
func (t *restorer) endDirectory() error {
	if err := t.finish(t.dirs.fd(), permDirectory); err != nil {
		return err
	}
	return t.dirs.pop()
}

// finish makes an open file canonical.
func (t *restorer) finish(fd int, perm uint32) error {
	if err := dirfd.Fchmod(fd, perm); err != nil {
		return err
	}
	return t.stamp(fd)
}

// stamp sets the time of an open file whose permissions are right.
func (t *restorer) stamp(fd int) error {
	if err := dirfd.SetMtime(fd, mtime); err != nil {
		return err
	}
	if t.opts.Sync != nil {
		return t.opts.Sync(fd)
	}
	return nil
}
