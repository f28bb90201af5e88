package sandbox

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kilnbuild/kiln/internal/rmtree"
	"github.com/kilnbuild/kiln/internal/testenv"
	"github.com/kilnbuild/kiln/sandbox/launcher"
	"golang.org/x/sys/unix"
)

// launcherProcesses are the processes of this very binary that are launchers, or
// clones of one that did not get as far as their exec.
func launcherProcesses(t *testing.T) []int {
	t.Helper()
	self, err := os.Stat("/proc/self/exe")
	must(t, err)
	dirs, err := filepath.Glob("/proc/[0-9]*")
	must(t, err)
	var pids []int
	for _, dir := range dirs {
		exe, err := os.Stat(dir + "/exe")
		if err != nil || !os.SameFile(self, exe) {
			continue
		}
		words, _ := os.ReadFile(dir + "/cmdline")
		if bytes.HasPrefix(words, []byte(launcher.Argv0+"\x00")) {
			pid, _ := strconv.Atoi(filepath.Base(dir))
			pids = append(pids, pid)
		}
	}
	return pids
}

// noLaunchers fails the test if launchers, or clones of them, stay.
func noLaunchers(t *testing.T) {
	t.Helper()
	var pids []int
	for end := time.Now().Add(2 * time.Second); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if pids = launcherProcesses(t); len(pids) == 0 {
			return
		}
	}
	for _, pid := range pids {
		stack, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stack", pid))
		where, _ := os.ReadFile(fmt.Sprintf("/proc/%d/syscall", pid))
		t.Errorf("process %d is left, in system call %s%s", pid, where, stack)
		unix.Kill(pid, unix.SIGKILL)
	}
}

// launcherPID is the process that l has started.
func (l *Launcher) launcherPID() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.conn == nil {
		return 0
	}
	return l.conn.cmd.Process.Pid
}

// TestT27LauncherKilledAtAnyMoment kills the launcher while it launches, at every
// moment of a launch. Nothing may be left, in whatever instruction it was.
func TestT27LauncherKilledAtAnyMoment(t *testing.T) {
	everyone(t, func(t *testing.T) {
		warm := newLauncher(t)
		usual := time.Now()
		newBox(t, "true").succeed(t, warm)
		usual = time.Now().Add(time.Since(usual)) // twice that long from now on
		span := max(time.Until(usual), 2*time.Millisecond)
		must(t, warm.Close())

		for range 60 {
			l := NewLauncher()
			b := newBox(t, "sleep 600 & sleep 600")
			if rand.IntN(2) == 0 {
				b.Live = "/data/store"
			}
			started := make(chan error, 1)
			_, err := l.get()
			must(t, err)
			victim := l.launcherPID()
			var p *Process
			go func() {
				var err error
				p, err = l.Start(context.Background(), b.Spec, Stdio{})
				started <- err
			}()
			time.Sleep(rand.N(span))
			must(t, unix.Kill(victim, unix.SIGKILL))
			if err := <-started; err == nil {
				if l.launcherPID() != victim {
					p.Kill() // another launcher was there in time
				}
				exit, err := p.Wait(t.Context())
				if !errors.Is(err, ErrInterrupted) && exit.Signal != unix.SIGKILL {
					t.Errorf("it ended with %v, %v", exit, err)
				}
			} else if !errors.Is(err, ErrInterrupted) {
				t.Errorf("it was not started: %v", err)
			}
			must(t, l.Close())
		}
		noLaunchers(t)
		testenv.NoProcesses(t, "kiln-sandbox-")
	})
}

// TestLauncherKilledBeforeItsPart kills a launcher whose child waits for it, which is the
// one moment in which the child can do nothing but wait.
func TestLauncherKilledBeforeItsPart(t *testing.T) {
	everyone(t, func(t *testing.T) {
		l := newLauncher(t)
		_, err := l.get()
		must(t, err)
		b := newBox(t, "sleep 600")
		b.Live = "/data/store"
		mounts, err := b.Stage()
		must(t, err)
		p := compile(b.Spec, mounts, hostFacts())
		// It waits twice for the launcher to hold its namespace: the second byte never
		// comes.
		null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
		must(t, err)
		defer null.Close()
		for i := range p.Instructions {
			if p.Instructions[i].What == "copy the mount namespace" {
				wait := p.Instructions[i-1]
				wait.What = "wait for ever"
				p.Instructions[i] = wait
			}
		}
		ended := make(chan error, 1)
		go func() {
			proc, err := l.launch(context.Background(), b.Name, p, launcher.Request{
				CloneFlags: b.cloneFlags(), MapIDs: 1, Siblings: 1,
				UIDMap: [3]uint64{1000, uint64(b.Users.OutsideUID), 1}, GIDMap: [3]uint64{100, uint64(b.Users.OutsideGID), 1},
			}, []*os.File{null, null, null})
			if err == nil {
				_, err = proc.Wait(context.Background())
			}
			ended <- err
		}()
		// Launcher, its clone: two processes that say they are launchers.
		for end := time.Now().Add(5 * time.Second); len(launcherProcesses(t)) < 2; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal("there is no clone of the launcher")
			}
		}
		time.Sleep(20 * time.Millisecond)
		must(t, unix.Kill(l.launcherPID(), unix.SIGKILL))
		if err := <-ended; !errors.Is(err, ErrInterrupted) {
			t.Errorf("it ended with %v, want ErrInterrupted", err)
		}
		noLaunchers(t)
	})
}

// TestT27CancelAtAnyMoment cancels the context of a start.
func TestT27CancelAtAnyMoment(t *testing.T) {
	everyone(t, func(t *testing.T) {
		l := newLauncher(t)
		cancelled := errors.New("cancelled by the test")
		newBox(t, "true").succeed(t, l)
		for range 40 {
			b := newBox(t, "sleep 600 & sleep 600")
			ctx, cancel := context.WithCancelCause(t.Context())
			time.AfterFunc(rand.N(8*time.Millisecond), func() { cancel(cancelled) })
			p, err := l.Start(ctx, b.Spec, Stdio{})
			if err == nil {
				must(t, p.Kill())
				if exit := wait(t, p); exit.Signal != unix.SIGKILL {
					t.Errorf("it ended with %v", exit)
				}
			} else if !errors.Is(err, cancelled) {
				t.Errorf("start gives %v", err)
			}
		}
		// Everything is dead at once, not only soon.
		for _, pid := range launcherProcesses(t) {
			if pid != l.launcherPID() {
				t.Errorf("process %d is left", pid)
			}
		}
		testenv.NoProcesses(t, "kiln-sandbox-")
		testenv.NoMounts(t, "kiln-sandbox-")
	})
}

// TestGoneWhenItSaysSo looks at the processes of a sandbox the moment its end is
// known, however it ended: directories are removed then.
func TestGoneWhenItSaysSo(t *testing.T) {
	everyone(t, func(t *testing.T) {
		for _, c := range []struct {
			name string
			end  func(*Launcher, *Process)
		}{
			{"killed", func(_ *Launcher, p *Process) { p.Kill() }},
			{"closed", func(l *Launcher, _ *Process) { l.Close() }},
			{"launcher killed", func(l *Launcher, _ *Process) { unix.Kill(l.launcherPID(), unix.SIGKILL) }},
		} {
			for range 5 {
				l := NewLauncher()
				b := newBox(t, "sleep 600 & echo ready; sleep 600")
				p, r := b.start(t, l)
				_, err := io.ReadFull(r, make([]byte, 6))
				must(t, err)
				pid := machinePID(t, p)
				c.end(l, p)
				p.Wait(t.Context())
				if state := processState(pid); state != "" && state != "Z" {
					t.Errorf("%s: process %d is in state %s when its end is known", c.name, pid, state)
				}
				must(t, l.Close())
				b.nothingLeft(t)
			}
		}
	})
}

// machinePID is the number of a process as the machine has it.
func machinePID(t *testing.T, p *Process) int {
	t.Helper()
	p.mu.Lock()
	defer p.mu.Unlock()
	text, err := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", p.pidfd.Fd()))
	must(t, err)
	pid, err := strconv.Atoi(fields(string(text))["Pid"])
	must(t, err)
	return pid
}

// processState is the letter in /proc, "" when there is no such process.
func processState(pid int) string {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return ""
	}
	_, rest, _ := strings.Cut(string(text), ") ")
	return rest[:1]
}

// TestT28OwnerKilled kills the process that has the launcher, as an executor
// would be killed. What it started goes with it, isolated or not.
func TestT28OwnerKilled(t *testing.T) {
	everyone(t, func(t *testing.T) {
		for _, role := range []string{"owns isolated", "owns unisolated"} {
			cmd := exec.Command("/proc/self/exe")
			cmd.Env = append(os.Environ(), insideVar+"="+role)
			cmd.Stderr = os.Stderr
			out, err := cmd.StdoutPipe()
			must(t, err)
			must(t, cmd.Start())
			line, err := bufio.NewReader(out).ReadString('\n')
			must(t, err)
			dir, ok := strings.CutPrefix(strings.TrimSpace(line), "dir ")
			if !ok {
				t.Fatalf("it printed %q", line)
			}
			defer rmtree.RemoveTree(dir)
			must(t, cmd.Process.Kill())
			cmd.Wait()
			testenv.NoProcesses(t, filepath.Base(dir))
			testenv.NoMounts(t, filepath.Base(dir))
			noLaunchers(t)
		}
	})
}

func init() {
	own := func(isolated bool) func() {
		return func() {
			t := &miniT{}
			l := NewLauncher()
			b := newBox(t, "sleep 600 & sleep 601 & echo ready; sleep 600")
			if !isolated {
				b.unisolated(t)
			}
			_, r := b.start(t, l)
			_, err := io.ReadFull(r, make([]byte, 6))
			must(t, err)
			fmt.Println("dir", b.dir)
			time.Sleep(time.Minute) // to be killed
		}
	}
	roles["owns isolated"], roles["owns unisolated"] = own(true), own(false)
}

// TestSignalsToTheLauncher sends what a service manager or a shell sends to all
// processes of a service or a job: that the launcher ends is for its owner to
// decide.
func TestSignalsToTheLauncher(t *testing.T) {
	everyone(t, func(t *testing.T) {
		l := newLauncher(t)
		b := newBox(t, "echo ready; read line; echo still there")
		r, w, err := os.Pipe()
		must(t, err)
		defer r.Close()
		in, stdin, err := os.Pipe()
		must(t, err)
		defer stdin.Close()
		p, err := l.Start(t.Context(), b.Spec, Stdio{Stdin: in, Stdout: w})
		must(t, err)
		in.Close()
		w.Close()
		_, err = io.ReadFull(r, make([]byte, 6))
		must(t, err)
		for _, s := range []syscall.Signal{unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGQUIT, unix.SIGUSR1, unix.SIGPIPE} {
			must(t, unix.Kill(l.launcherPID(), s))
			time.Sleep(2 * time.Millisecond)
		}
		fmt.Fprintln(stdin)
		if got := readAll(t, r); got != "still there\n" {
			t.Errorf("after the signals it printed %q", got)
		}
		if exit := wait(t, p); exit.Code != 0 {
			t.Errorf("it ended with %v", exit)
		}
	})
}
