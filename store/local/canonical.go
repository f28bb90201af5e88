package local

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/kilnbuild/kiln/internal/dirfd"
	"github.com/kilnbuild/kiln/nix/nar"
)

// Owner is whom the files of a build belong to before they become an object.
type Owner struct {
	// UID is the first of Count user ids; a Count of zero stands for one.
	UID, Count int
	// Own says that it is the user that this process is. Then nothing can be given
	// to another user, and nothing needs to be.
	Own bool
}

// Owns tells whether a file of the user uid is the owner's.
func (o Owner) Owns(uid uint32) bool {
	if o.Own {
		return int(uid) == os.Geteuid()
	}
	return int64(uid) >= int64(o.UID) && int64(uid) < int64(o.UID)+int64(max(o.Count, 1))
}

// ContentError says that files cannot become an object, because of what they are
// and not because of the machine.
type ContentError struct {
	Path   string
	Reason string // with the path in it
}

func (e *ContentError) Error() string { return e.Reason }

// Canonicaliser gives files the form that all files in a store have: mode 0444 or
// 0555, modification time 1, the store's owner, and no extended attributes. (Nix:
// canonicalisePathMetaData.) It works on descriptors, and can do its work while a
// tree is being archived anyway:
//
//	nar.Dump(w, path, nar.DumpOptions{Inode: c.Inode})
//
// Several trees that may share files by hard links, like the outputs of one
// build, have one Canonicaliser. It is not safe for concurrent use.
type Canonicaliser struct {
	owner    Owner
	uid, gid int
	seen     map[inode]struct{} // those that can be met again
	names    []byte             // room for the names of attributes
}

type inode struct{ dev, ino uint64 }

// ignoredAttributes are extended attributes that cannot be removed on some
// systems, and are no part of what a file is (Nix: ignored-acls).
var ignoredAttributes = map[string]bool{"security.selinux": true, "system.nfs4_acl": true, "security.csm": true}

// Canonicaliser makes a Canonicaliser for files of owner.
func (s *Store) Canonicaliser(owner Owner) *Canonicaliser {
	return &Canonicaliser{
		owner: owner, uid: os.Geteuid(), gid: os.Getegid(),
		seen: make(map[inode]struct{}), names: make([]byte, 4<<10),
	}
}

// The times and modes of files in a store.
const (
	storeMtime      = 1
	storeMode       = 0o444
	storeExecutable = 0o555
)

// Inode makes one file canonical. It is a nar.DumpOptions.Inode. A *ContentError
// says that the file belongs to somebody else.
func (c *Canonicaliser) Inode(i *nar.Inode) error {
	if i.Nlink > 1 && i.Type != nar.Directory {
		key := inode{i.Dev, i.Ino}
		if _, ok := c.seen[key]; ok {
			return nil // it belongs to the store already
		}
		c.seen[key] = struct{}{}
	}
	if !c.owner.Owns(i.UID) {
		return &ContentError{i.Path(), fmt.Sprintf("invalid ownership on file '%s'", i.Path())}
	}
	if err := c.apply(i); err != nil {
		return fmt.Errorf("make '%s' canonical: %w", i.Path(), err)
	}
	return nil
}

func (c *Canonicaliser) apply(i *nar.Inode) error {
	symlink := i.Type == nar.Symlink
	if err := c.removeAttributes(i); err != nil {
		return err
	}
	// The mode before the owner: a setuid program must at no time be root's.
	if want := canonicalMode(i); !symlink && i.Mode&0o7777 != want {
		if err := dirfd.Fchmod(i.FD, want); err != nil {
			return err
		}
	}
	if i.MtimeSec != storeMtime || i.MtimeNsec != 0 {
		var err error
		if symlink {
			err = dirfd.SetMtimeAt(i.Dir, i.Name, storeMtime)
		} else {
			err = dirfd.SetMtime(i.FD, storeMtime)
		}
		if err != nil {
			return err
		}
	}
	if int(i.UID) == c.uid {
		return nil
	}
	return changeOwner(i, c.uid, c.gid)
}

// canonicalMode gives the permissions that a file gets.
func canonicalMode(i *nar.Inode) uint32 {
	const ownerExecutes = 0o100
	if i.Type == nar.Directory || i.Mode&ownerExecutes != 0 {
		return storeExecutable
	}
	return storeMode
}

// removeAttributes removes the extended attributes of a file.
func (c *Canonicaliser) removeAttributes(i *nar.Inode) error {
	for {
		n, err := listAttributes(i, c.names)
		if err != nil {
			return err
		}
		if n <= len(c.names) {
			return removeListed(i, c.names[:n])
		}
		c.names = make([]byte, n)
	}
}

func removeListed(i *nar.Inode, names []byte) error {
	for len(names) > 0 {
		end := 0
		for end < len(names) && names[end] != 0 {
			end++
		}
		if name := string(names[:end]); !ignoredAttributes[name] {
			if err := removeAttribute(i, name); err != nil {
				return fmt.Errorf("remove extended attribute '%s': %w", name, err)
			}
		}
		names = names[min(end+1, len(names)):]
	}
	return nil
}

// Tree makes the tree at root canonical, and reads it for that. The last element
// of root is not followed. A *ContentError says that something in it belongs to
// somebody else or cannot be in a store.
func (c *Canonicaliser) Tree(root string) error {
	_, err := nar.Dump(io.Discard, root, nar.DumpOptions{Inode: c.Inode, MakeReadable: c.owner.Own})
	if odd := (*nar.UnsupportedTypeError)(nil); errors.As(err, &odd) {
		return &ContentError{odd.Path, odd.Error()}
	}
	return err
}

// closeDir takes from a directory of an object what was allowed for a moment. It
// is used on objects only, so what it sets is what was there before.
func closeDir(dir int, name string) error {
	fd, err := dirfd.OpenDir(dir, name)
	if err != nil {
		return err
	}
	defer dirfd.Close(fd)
	return errors.Join(dirfd.Fchmod(fd, storeExecutable), dirfd.SetMtime(fd, storeMtime))
}
