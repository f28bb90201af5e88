package local

import (
	"errors"
	"fmt"
	"io/fs"
	"sync"

	"github.com/kilnbuild/kiln/internal/dirfd"
	"github.com/kilnbuild/kiln/internal/rmtree"
)

const (
	diggers = 2    // goroutines that delete
	backlog = 1024 // entries that may wait for them
)

// burial deletes what was moved out of the store directory, while its collection
// goes on.
type burial struct {
	room  bool // there is a directory to move things to
	count freed
	queue chan corpse
	work  sync.WaitGroup // goroutines
	open  sync.WaitGroup // entries that are not yet deleted
	mu    sync.Mutex
	fails []error
}

// A corpse is an entry that was moved.
type corpse struct {
	dir  int
	temp string // its name there
	name string // what it was called in the store directory
}

func (b *burial) start(s *Store) {
	b.queue = make(chan corpse, backlog)
	for range diggers {
		b.work.Go(func() {
			for c := range b.queue {
				if err := b.delete(c.dir, c.temp); err != nil && !errors.Is(err, fs.ErrNotExist) {
					b.mu.Lock()
					if len(b.fails) < maxFails {
						b.fails = append(b.fails, fmt.Errorf("delete what was '%s/%s': %w", s.layout.store, c.name, err))
					}
					b.mu.Unlock()
				}
				b.open.Done()
			}
		})
	}
}

// delete deletes an entry of a directory where it is. That it is not there is
// fs.ErrNotExist.
func (b *burial) delete(dir int, name string) error {
	return rmtree.RemoveAtTelling(dir, name, b.count.unlinked)
}

// maxFails bounds how many failures are remembered.
const maxFails = 100

func (b *burial) add(c corpse) {
	b.open.Add(1)
	b.queue <- c
}

// settle waits until everything is deleted, and gives what failed.
func (b *burial) settle() []error {
	b.open.Wait()
	b.mu.Lock()
	defer b.mu.Unlock()
	fails := b.fails
	b.fails = nil
	return fails
}

func (b *burial) stop() {
	if b.queue != nil {
		close(b.queue)
		b.work.Wait()
		b.queue = nil
	}
}

// freed counts bytes that became free: a file counts when its last name goes. Of a
// file with two names the other one is nearly always its entry in the directory of
// links, which goes at the end, so it counts with the first name, as in Nix; if the
// second one is not gone at the end, it is taken off again.
type freed struct {
	mu    sync.Mutex
	bytes int64
	early map[fileID]int64 // counted, with one name left
}

// fileID is what a file has only once, however many names it has.
type fileID struct{ dev, ino uint64 }

func (f *freed) unlinked(st *dirfd.Stat) {
	f.mu.Lock()
	defer f.mu.Unlock()
	key := fileID{st.Dev, st.Ino}
	switch st.Nlink {
	case 1:
		if _, done := f.early[key]; done {
			delete(f.early, key)
			return
		}
		f.bytes += st.Size
	case 2:
		if _, done := f.early[key]; done {
			return
		}
		if f.early == nil {
			f.early = make(map[fileID]int64)
		}
		f.early[key] = st.Size
		f.bytes += st.Size
	}
}

func (f *freed) sum() int64 {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.bytes
}

// settle takes off what has not become free after all.
func (f *freed) settle() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, size := range f.early {
		f.bytes -= size
	}
	f.early = nil
}
