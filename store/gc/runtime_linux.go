package gc

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"runtime"
	"strconv"
	"sync"
	"syscall"

	"github.com/kilnbuild/kiln/internal/dirfd"
	"github.com/kilnbuild/kiln/nix"
	"golang.org/x/sys/unix"
)

// procDir is where the kernel tells of processes.
const procDir = "/proc"

// kernelPrograms are files that name a program which the kernel starts.
var kernelPrograms = []string{"/proc/sys/kernel/modprobe", "/proc/sys/kernel/fbsplash", "/proc/sys/kernel/poweroff_cmd"}

// maxProcText bounds what is read of the mappings or the environment of a process,
// in bytes.
const maxProcText = 256 << 20

// runtime adds what processes use. It reads each of their files once, and takes time
// in proportion to what the kernel tells.
func (f *finder) runtime(ctx context.Context) error {
	known := newNames(string(f.store.Dir()), f.store.RealDir())
	for _, file := range kernelPrograms {
		// Where there is no such file, the kernel starts no such program.
		if text, err := os.ReadFile(file); err == nil {
			if p := known.of(text); p != "" {
				f.add(p, Root{file, Kernel})
			}
		}
	}
	proc, err := os.Open(procDir)
	if err != nil {
		f.report(Problem{Name: procDir, Err: err})
		return nil
	}
	defer proc.Close()
	pids := make(chan string)
	var work sync.WaitGroup
	var mu sync.Mutex // of the finder
	for range min(runtime.GOMAXPROCS(0), 8) {
		work.Go(func() {
			s := &processScanner{proc: int(proc.Fd()), names: known, text: make([]byte, 64<<10), list: make([]byte, 8<<10)}
			for pid := range pids {
				s.begin(pid)
				err := s.scan()
				mu.Lock()
				for found := range s.found {
					f.add(found.path, Root{found.name, Process})
				}
				if err != nil {
					f.report(Problem{Name: procDir + "/" + pid, Err: err, Usual: isUsual(err)})
				}
				mu.Unlock()
			}
		})
	}
	err = dirfd.List(int(proc.Fd()), make([]byte, 32<<10), func(name []byte, _ dirfd.Type) error {
		if name[0] < '1' || name[0] > '9' {
			return nil
		}
		select {
		case pids <- string(name):
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	})
	close(pids)
	work.Wait()
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	if err != nil {
		f.report(Problem{Name: procDir, Err: err})
	}
	return nil
}

// isUsual tells whether an error is that of a process which has ended, or belongs to
// somebody else.
func isUsual(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.ESRCH)
}

// processScanner looks at one process after the other.
type processScanner struct {
	proc  int
	names *names
	text  []byte // room to read into; grows to the largest that there is
	list  []byte
	link  [unix.PathMax]byte
	pid   string
	found map[use]struct{}
}

// A use is an object that a process uses, and the file that says so.
type use struct {
	path nix.StorePath
	name string
}

func (s *processScanner) begin(pid string) {
	s.pid = pid
	if s.found == nil {
		s.found = make(map[use]struct{})
	}
	clear(s.found)
}

// scan looks at a process. Whatever it could see before an error counts.
func (s *processScanner) scan() error {
	dir, err := dirfd.OpenDir(s.proc, s.pid)
	if err != nil {
		return err
	}
	defer dirfd.Close(dir)
	for _, name := range []string{"exe", "cwd", "root"} {
		// A kernel thread has no program.
		if err := s.symlink(dir, name, name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	fds, err := dirfd.OpenDir(dir, "fd")
	if err != nil {
		return err
	}
	err = dirfd.List(fds, s.list, func(name []byte, _ dirfd.Type) error {
		err := s.symlink(fds, string(name), "fd/"+string(name))
		if errors.Is(err, fs.ErrNotExist) {
			return nil // closed meanwhile
		}
		return err
	})
	dirfd.Close(fds)
	if err != nil {
		return err
	}
	for _, name := range []string{"maps", "environ"} {
		if err := s.search(dir, name); err != nil {
			return err
		}
	}
	return nil
}

func (s *processScanner) symlink(dir int, name, shown string) error {
	n, err := unix.Readlinkat(dir, name, s.link[:])
	if err != nil {
		return err
	}
	if p := s.names.of(s.link[:n]); p != "" {
		s.found[use{p, procDir + "/" + s.pid + "/" + shown}] = struct{}{}
	}
	return nil
}

// search looks for paths in a file.
func (s *processScanner) search(dir int, name string) error {
	text, err := s.read(dir, name)
	if err != nil {
		return err
	}
	shown := ""
	s.names.in(text, func(p nix.StorePath) {
		if shown == "" {
			shown = procDir + "/" + s.pid + "/" + name
		}
		s.found[use{p, shown}] = struct{}{}
	})
	return nil
}

// read reads a file of a process to its end. The result is good until the next call.
func (s *processScanner) read(dir int, name string) ([]byte, error) {
	fd, err := dirfd.OpenFile(dir, name)
	if err != nil {
		return nil, err
	}
	defer dirfd.Close(fd)
	size := 0
	for {
		if size == len(s.text) {
			if size >= maxProcText {
				return nil, errors.New(name + " has more than " + strconv.Itoa(maxProcText) + " bytes")
			}
			s.text = append(s.text, make([]byte, len(s.text))...)
		}
		n, err := dirfd.Read(fd, s.text[size:])
		if err != nil {
			return nil, err
		}
		if n == 0 {
			return s.text[:size], nil
		}
		size += n
	}
}
