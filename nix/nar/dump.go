package nar

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/kilnbuild/kiln/internal/dirfd"
)

// DumpOptions says how a tree is dumped. The zero value is usable.
type DumpOptions struct {
	// Limits are those of the archive. A tree beyond them is an error, so that
	// what was dumped can be read again.
	Limits Limits

	// Inode, if set, is called for each file, directory and symbolic link, each
	// directory before its entries, with the file open and nothing of it dumped
	// yet. It may change the file's owner, permissions, times and attributes, but
	// not what the archive holds. A file with several hard links is met once for
	// each of them. An error ends the dump and is returned as it is.
	Inode func(*Inode) error

	// MakeReadable gives files and directories that their owner, who is the
	// caller, cannot read the permission for it. A privileged user reads them
	// anyway.
	MakeReadable bool

	// Name is what errors call the root of the tree. It defaults to the path or
	// name that was given.
	Name string
}

// Inode is a file that Dump is about to read. It is valid during the call only.
type Inode struct {
	// FD is open for reading, and positioned at the start. It is -1 for a
	// symbolic link, which can be changed through Dir and Name. Both descriptors
	// belong to Dump.
	FD int

	// Dir is the directory that holds the file, Name what it is called there. They
	// are for calls that do not follow symbolic links.
	Dir  int
	Name string

	Type  Type
	Depth int // as in Header

	// What fstat said of the file.
	Dev, Ino, Nlink     uint64
	Mode                uint32 // type and permission bits
	UID, GID            uint32
	Size                int64
	MtimeSec, MtimeNsec int64

	dumper *dumper
}

// Path is what errors call the file.
func (i *Inode) Path() string { return i.dumper.path() }

// UnsupportedTypeError says that a tree holds something that an archive cannot,
// a socket, fifo or device.
type UnsupportedTypeError struct {
	Path string
	Mode uint32 // type and permission bits
}

func (e *UnsupportedTypeError) Error() string {
	return fmt.Sprintf("file '%s' has an unsupported type", e.Path)
}

// Dump writes the archive of the tree at path to w, and returns its size. The
// last element of path is not followed where it is a symbolic link, those before
// it are. That element must be a name: "/", "." and ".." have no parent to
// start from.
//
// From there on nothing is named but single entries of open directories, so the
// tree may be deeper than a path can say, and others may change it meanwhile
// without leading the walk astray: what they change is an error, or in the
// archive, as is the content of a file that is written to. Depth and listings of
// the directories on the way are all that memory grows with; no more than about
// 70 descriptors are open.
//
// Dump returns an *UnsupportedTypeError where something can be in no archive. It
// blocks as long as w does: to cancel it, make w fail.
func Dump(w io.Writer, path string, opts DumpOptions) (size int64, err error) {
	if opts.Name == "" {
		opts.Name = path
	}
	dir, name, err := dirfd.OpenParent(path)
	if err != nil {
		return 0, fmt.Errorf("dump %s: %w", opts.Name, err)
	}
	defer dirfd.Close(dir)
	return DumpAt(w, dir, name, opts)
}

// DumpAt is Dump for the entry name of the open directory dir, which stays open.
// Nothing but a single entry can be named.
func DumpAt(w io.Writer, dir int, name string, opts DumpOptions) (size int64, err error) {
	if opts.Name == "" {
		opts.Name = name
	}
	d := &dumper{opts: opts, out: NewWriter(w, opts.Limits), scratch: takeBuffer()}
	defer giveBuffer(d.scratch)
	defer d.dirs.close()
	if err := d.tree(dir, name); err != nil {
		d.out.abandon(err)
		return d.out.Size(), err
	}
	err = d.out.Close()
	return d.out.Size(), err
}

// dumper is one dump.
type dumper struct {
	opts    DumpOptions
	out     *Writer
	dirs    descent
	listing []listing // of each directory that is open
	scratch *buffer
	stat    dirfd.Stat // of the present file
	inode   Inode
}

// listing is the entries of a directory, and how many of them have been begun.
type listing struct {
	entries []entry
	begun   int
}

type entry struct {
	name string
	kind dirfd.Type
}

func (d *dumper) tree(dir int, name string) error {
	if err := d.node(dir, name, dirfd.Unknown); err != nil {
		return err
	}
	for len(d.listing) > 0 {
		list := &d.listing[len(d.listing)-1]
		if list.begun == len(list.entries) {
			d.listing = d.listing[:len(d.listing)-1]
			if err := d.dirs.pop(); err != nil {
				return d.failed(err)
			}
			continue
		}
		e := list.entries[list.begun]
		list.begun++
		if err := d.node(d.dirs.fd(), e.name, e.kind); err != nil {
			return err
		}
	}
	return nil
}

// node dumps an entry of dir, of a directory only the beginning.
func (d *dumper) node(dir int, name string, kind dirfd.Type) error {
	d.stat = dirfd.Stat{}
	if kind == dirfd.Unknown {
		if err := dirfd.StatAt(dir, name, &d.stat); err != nil {
			return d.failed(err)
		}
		kind = d.stat.Type()
	}
	switch kind {
	case dirfd.Regular:
		return d.regular(dir, name)
	case dirfd.Directory:
		return d.directory(dir, name)
	case dirfd.Symlink:
		return d.symlink(dir, name)
	}
	if d.stat.Mode == 0 {
		if err := dirfd.StatAt(dir, name, &d.stat); err != nil {
			return d.failed(err)
		}
	}
	return &UnsupportedTypeError{Path: d.path(), Mode: d.stat.Mode}
}

func (d *dumper) regular(dir int, name string) error {
	fd, err := d.open(dirfd.OpenFile, dir, name, 0o400)
	if err != nil {
		return d.failed(err)
	}
	defer dirfd.Close(fd)
	if err := dirfd.Fstat(fd, &d.stat); err != nil {
		return d.failed(err)
	}
	if d.stat.Type() != dirfd.Regular {
		return d.failed(errChanged)
	}
	h := Header{Type: Regular, Executable: d.stat.Mode&0o100 != 0, Size: d.stat.Size}
	if err := d.begin(dir, name, fd, h); err != nil {
		return err
	}
	return d.content(fd)
}

// content dumps the content of the open file fd, whose size is known.
func (d *dumper) content(fd int) error {
	for d.out.err == nil {
		// One byte more than there should be shows whether the file has grown, for a
		// small file without another call.
		space, left := d.out.space(), d.out.content
		space = space[:min(int64(len(space)), left+1)]
		n, err := dirfd.Read(fd, space)
		switch {
		case err != nil:
			return d.failed(err)
		case int64(n) > left || n == 0 && left > 0:
			return d.failed(errSize)
		}
		d.out.took(n)
		if n == 0 || d.out.content == 0 && n < len(space) {
			return nil
		}
	}
	return d.out.err
}

func (d *dumper) symlink(dir int, name string) error {
	if d.opts.Inode != nil && d.stat.Mode == 0 {
		if err := dirfd.StatAt(dir, name, &d.stat); err != nil {
			return d.failed(err)
		}
	}
	target, err := dirfd.Readlink(dir, name, d.scratch[:])
	if err != nil {
		return d.failed(err)
	}
	return d.begin(dir, name, -1, Header{Type: Symlink, Target: target})
}

func (d *dumper) directory(dir int, name string) error {
	fd, err := d.open(dirfd.OpenDir, dir, name, 0o500)
	if err != nil {
		return d.failed(err)
	}
	err = dirfd.Fstat(fd, &d.stat)
	if err == nil && d.opts.MakeReadable && d.stat.Mode&0o500 != 0o500 {
		// It can be listed, but its entries cannot be opened.
		_ = dirfd.Fchmod(fd, d.stat.Mode&0o7777|0o500)
		err = dirfd.Fstat(fd, &d.stat)
	}
	if err != nil {
		dirfd.Close(fd)
		return d.failed(err)
	}
	if err := d.begin(dir, name, fd, Header{Type: Directory}); err != nil {
		dirfd.Close(fd)
		return err
	}
	if err := d.dirs.push(fd); err != nil {
		return d.failed(err)
	}
	if n := len(d.listing); n < cap(d.listing) {
		d.listing = d.listing[:n+1] // with the memory of an earlier one
	} else {
		d.listing = append(d.listing, listing{})
	}
	list := &d.listing[len(d.listing)-1]
	list.begun, list.entries = 0, list.entries[:0]
	err = dirfd.List(fd, d.scratch[:], func(name []byte, kind dirfd.Type) error {
		list.entries = append(list.entries, entry{string(name), kind})
		return nil
	})
	if err != nil {
		return d.failed(err)
	}
	slices.SortFunc(list.entries, func(a, b entry) int { return strings.Compare(a.name, b.name) })
	return nil
}

// begin shows a file to the option Inode and writes its header. d.stat describes
// it.
func (d *dumper) begin(dir int, name string, fd int, h Header) error {
	if h.Depth = len(d.listing); h.Depth > 0 {
		h.Name = name
	}
	if d.opts.Inode != nil {
		s := &d.stat
		d.inode = Inode{
			FD: fd, Dir: dir, Name: name, Type: h.Type, Depth: h.Depth,
			Dev: s.Dev, Ino: s.Ino, Nlink: s.Nlink, Mode: s.Mode, UID: s.UID, GID: s.GID,
			Size: s.Size, MtimeSec: s.MtimeSec, MtimeNsec: s.MtimeNsec,
			dumper: d,
		}
		if err := d.opts.Inode(&d.inode); err != nil {
			return err
		}
	}
	return d.out.WriteHeader(h)
}

// open opens an entry, if need be after giving its owner the permission perm.
func (d *dumper) open(call func(int, string) (int, error), dir int, name string, perm uint32) (int, error) {
	fd, err := call(dir, name)
	if !d.opts.MakeReadable || !errors.Is(err, fs.ErrPermission) {
		return fd, err
	}
	var s dirfd.Stat
	if dirfd.StatAt(dir, name, &s) != nil || dirfd.Chmod(dir, name, s.Mode&0o7777|perm) != nil {
		return -1, err
	}
	return call(dir, name)
}

var (
	errChanged = errors.New("the type of the file changed while its tree was read")
	errSize    = errors.New("the size of the file changed while it was read")
)

func (d *dumper) failed(err error) error { return fmt.Errorf("dump %s: %w", d.path(), err) }

// path is what errors call the present file.
func (d *dumper) path() string {
	names := []string{d.opts.Name}
	for _, list := range d.listing {
		if list.begun > 0 {
			names = append(names, list.entries[list.begun-1].name)
		}
	}
	return path.Join(names...)
}
