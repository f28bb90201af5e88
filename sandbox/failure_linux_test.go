package sandbox

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kilnbuild/kiln/internal/rmtree"
	"github.com/kilnbuild/kiln/internal/testenv"
	"github.com/kilnbuild/kiln/sandbox/launcher"
	"golang.org/x/sys/unix"
)

// TestEveryInstructionFails breaks each call of a program in its turn. The error
// has to say which it was, and nothing may be left.
func TestEveryInstructionFails(t *testing.T) {
	everyone(t, func(t *testing.T) {
		l := newLauncher(t)
		b := newBox(t, "true")
		b.Live = "/data/store"
		null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
		must(t, err)
		defer null.Close()
		for i, n := 0, 1; i < n; i++ {
			mounts, err := b.Stage()
			must(t, err)
			p := compile(b.Spec, mounts, hostFacts())
			n = len(p.Instructions)
			in := &p.Instructions[i]
			if in.AnyError {
				must(t, rmtree.RemoveTree(b.Root))
				continue
			}
			const none = 100_000 // no system call has this number
			name, what := in.Call.Name, in.What
			in.Call.Number = none
			proc, err := l.launch(t.Context(), b.Name, p, launcher.Request{
				CloneFlags: b.cloneFlags(), MapIDs: 1, Siblings: 1,
				UIDMap: [3]uint64{1000, uint64(b.Users.OutsideUID), 1}, GIDMap: [3]uint64{100, uint64(b.Users.OutsideGID), 1},
			}, []*os.File{null, null, null})
			var failed *SetupError
			switch {
			case err == nil:
				wait(t, proc)
				t.Errorf("instruction %d (%s) cannot have worked", i, name)
			case name == "read" && errors.As(err, &failed):
				// It waits for the launcher, who may notice first that the process is gone.
			case !errors.As(err, &failed) || failed.Errno != unix.ENOSYS || failed.Stage != what && failed.Stage != name:
				t.Errorf("instruction %d (%s) gives %v, want a SetupError that names '%s'", i, name, err, what)
			}
			must(t, rmtree.RemoveTree(b.Root))
		}
		b.nothingLeft(t)
	})
}

func TestStartFailures(t *testing.T) {
	everyone(t, func(t *testing.T) {
		l := newLauncher(t)
		for _, c := range []struct {
			name   string
			change func(*box)
			exec   bool
			words  []string
		}{
			{"a program that is not there", func(b *box) { b.Path = "/bin/none" }, true, []string{"executing '/bin/none': No such file or directory"}},
			{"a program that is a directory", func(b *box) { b.Path = "/bin" }, true, []string{"executing '/bin': Permission denied"}},
			{"a working directory that is not there", func(b *box) { b.Dir = "/none" }, false, []string{"enter /none", "no such file"}},
			{"a mount of something that is not there", func(b *box) { b.Mounts[0].Source = "/none/such" }, false, []string{"getting attributes of path '/none/such': No such file or directory"}},
			{"a root in a directory that is not there", func(b *box) { b.Root = "/none/such" }, false, []string{"stage root directory", "no such file"}},
			{"a size that cannot be", func(b *box) {
				for i := range b.Mounts {
					if b.Mounts[i].Target == "/dev/shm" {
						b.Mounts[i].Size = "much"
					}
				}
			}, false, []string{`size "much" on /dev/shm`}},
			{"a relative root", func(b *box) { b.Root = "root" }, false, []string{"not a clean absolute path"}},
		} {
			t.Run(c.name, func(t *testing.T) {
				b := newBox(t, "true")
				c.change(b)
				p, err := l.Start(t.Context(), b.Spec, Stdio{})
				if err == nil {
					wait(t, p)
					t.Fatal("it was started")
				}
				var exec *ExecError
				if errors.As(err, &exec) != c.exec {
					t.Errorf("%v is an ExecError: %v, want %v", err, !c.exec, c.exec)
				}
				for _, w := range c.words {
					if !strings.Contains(err.Error(), w) {
						t.Errorf("%q lacks %q", err, w)
					}
				}
				b.nothingLeft(t)
			})
		}
	})
}

// TestLauncherDies kills the launcher while programs run. They end with it, and
// the next start has a new one.
func TestLauncherDies(t *testing.T) {
	everyone(t, func(t *testing.T) {
		l := newLauncher(t)
		b := newBox(t, "sleep 600 & sleep 600")
		p, _ := b.start(t, l)
		must(t, l.conn.cmd.Process.Kill())
		if _, err := p.Wait(t.Context()); !errors.Is(err, ErrInterrupted) {
			t.Errorf("the program ended with %v, want ErrInterrupted", err)
		}
		b.nothingLeft(t)
		l.conn.cmd.Wait() // we killed it; how it ended is no news
		l.mu.Lock()
		l.conn.read.Wait()
		l.conn.sock.Close()
		l.conn = nil
		l.mu.Unlock()
		if out := newBox(t, "echo again").succeed(t, l); out != "again\n" {
			t.Errorf("after the launcher's death a program prints %q", out)
		}
	})
}

func TestCloseKills(t *testing.T) {
	everyone(t, func(t *testing.T) {
		l := NewLauncher()
		b := newBox(t, "sleep 600 & sleep 600")
		p, _ := b.start(t, l)
		must(t, l.Close())
		if _, err := p.Wait(t.Context()); !errors.Is(err, ErrInterrupted) {
			t.Errorf("the program ended with %v, want ErrInterrupted", err)
		}
		b.nothingLeft(t)
		if _, err := l.Start(t.Context(), newBox(t, "true").Spec, Stdio{}); err == nil {
			t.Error("a closed launcher started something")
		}
	})
}

func TestKill(t *testing.T) {
	everyone(t, func(t *testing.T) {
		l := newLauncher(t)
		for _, isolated := range []bool{true, false} {
			b := newBox(t, "trap '' TERM HUP INT; sleep 600 & echo ready; sleep 600")
			if !isolated {
				b.unisolated(t)
				b.Args[2] = testenv.Busybox(t) + " sleep 600 & echo ready; " + testenv.Busybox(t) + " sleep 600"
			}
			p, r := b.start(t, l)
			buf := make([]byte, 6)
			_, err := r.Read(buf)
			must(t, err)
			must(t, p.Kill())
			if exit := wait(t, p); exit.Signal != unix.SIGKILL {
				t.Errorf("isolated %v: it ended with %v", isolated, exit)
			}
			must(t, p.Kill()) // again is no error
			b.nothingLeft(t)
		}
	})
}

// TestManyAtOnce launches from several goroutines under constant garbage
// collection.
func TestManyAtOnce(t *testing.T) {
	everyone(t, func(t *testing.T) {
		l := newLauncher(t)
		stop := make(chan struct{})
		var collector, launches sync.WaitGroup
		collector.Go(func() {
			for {
				select {
				case <-stop:
					return
				case <-time.After(time.Millisecond):
					runtime.GC()
				}
			}
		})
		for range 8 {
			launches.Go(func() {
				for range 40 {
					b := newBox(t, "exit 7")
					p, err := l.Start(t.Context(), b.Spec, Stdio{})
					if err != nil {
						t.Error(err)
						return
					}
					if exit, err := p.Wait(t.Context()); err != nil || exit.Code != 7 {
						t.Errorf("it ended with %v, %v", exit, err)
					}
				}
			})
		}
		launches.Wait()
		close(stop)
		collector.Wait()
	})
}

// BenchmarkLaunch is a usual sandbox from its Spec to its end.
func BenchmarkLaunch(b *testing.B) {
	l := newLauncher(b)
	box := newBox(b, "")
	box.Path, box.Args = "/bin/busybox", []string{"true"}
	i := 0
	for b.Loop() {
		i++
		box.Root = filepath.Join(box.dir, "root")
		p, err := l.Start(b.Context(), box.Spec, Stdio{})
		must(b, err)
		if exit := wait(b, p); exit.Code != 0 {
			b.Fatal(exit)
		}
		must(b, rmtree.RemoveTree(box.Root))
	}
}
