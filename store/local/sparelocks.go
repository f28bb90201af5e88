package local

import (
	"context"
	"os"
	"path/filepath"
	"sync"

	"github.com/kilnbuild/kiln/internal/dirfd"
)

// spareLocks are lock files that are between two objects: locked, and in the temporary
// directory, where nobody else finds them. To move one into the store directory is to have
// the lock. It needs no inode, and inodes are what takes the longest where many have just been
// deleted: ext4 looks at each of these before it gives out another one.
//
// Only files that nobody else has opened become spare. Who has opened one waits for the
// object's lock, and learns that it is over from what is written to the file.
type spareLocks struct {
	store *Store
	into  int // the store directory

	mu    sync.Mutex
	files []spareLock
}

type spareLock struct {
	file *os.File
	dir  int // of the temporary directory
	name string
}

// spareLocks gives none to begin with. The caller closes it, after all locks were released.
func (s *Store) spareLocks() (*spareLocks, error) {
	into, _, err := dirfd.OpenParent(filepath.Join(s.layout.store, "x"))
	if err != nil {
		return nil, explain(err)
	}
	return &spareLocks{store: s, into: into}, nil
}

// take gives the lock that name is the file of, which is locked within this process, nil if
// there is none to spare or somebody else has a file there.
func (k *spareLocks) take(name string) *os.File {
	if k == nil {
		return nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.files) == 0 {
		return nil
	}
	last := k.files[len(k.files)-1]
	if dirfd.RenameNew(last.dir, last.name, k.into, filepath.Base(name)) != nil {
		return nil
	}
	k.files = k.files[:len(k.files)-1]
	k.store.room.leave()
	return last.file
}

// keep takes the file of a lock out of the store directory. It tells whether the file is
// gone from there, and then it is no concern of the caller any more.
func (k *spareLocks) keep(l *pathLock) bool {
	if k == nil {
		return false
	}
	room := &k.store.room
	dir, name, err := room.open(context.Background())
	if err != nil {
		return false
	}
	if dirfd.RenameNew(k.into, filepath.Base(l.name), dir, name) != nil {
		room.leave()
		return false
	}
	if !openedOnce(l.file) {
		if err := dirfd.Unlink(dir, name); err != nil {
			k.store.opts.Warn(err)
		}
		room.leave()
		l.end()
		return true
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.files = append(k.files, spareLock{l.file, dir, name})
	return true
}

func (k *spareLocks) close() {
	for _, f := range k.files {
		if err := dirfd.Unlink(f.dir, f.name); err != nil {
			k.store.opts.Warn(err)
		}
		k.store.room.leave()
		// Somebody may have been about to open it when it was looked at.
		(&pathLock{store: k.store, file: f.file}).end()
	}
	dirfd.Close(k.into)
}
