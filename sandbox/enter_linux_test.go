package sandbox

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/kilnbuild/kiln/internal/testenv"
	"github.com/kilnbuild/kiln/sandbox/launcher"
	"github.com/kilnbuild/kiln/sandbox/program"
	"golang.org/x/sys/unix"
)

// hosted starts a box that waits until it is killed, or until there is a file
// /build/end. It has said so when hosted returns.
func hosted(t *testing.T, l *Launcher, b *box) *Process {
	t.Helper()
	b.Args[2] = "echo here; until [ -e end ]; do sleep 0.02; done"
	p, r := b.start(t, l)
	if _, err := io.ReadFull(r, make([]byte, len("here\n"))); err != nil {
		t.Fatalf("the host does not run: %v", err)
	}
	t.Cleanup(func() {
		p.Kill()
		p.Wait(context.Background())
	})
	return p
}

// visit runs a script as a guest, without a terminal.
func visit(t *testing.T, l *Launcher, host *Process, shell, script string) (string, Exit) {
	t.Helper()
	r, w, err := os.Pipe()
	must(t, err)
	defer r.Close()
	p, err := l.Enter(t.Context(), host, Guest{Path: shell, Args: []string{"sh", "-c", script}}, Stdio{Stdout: w, Stderr: w})
	w.Close()
	must(t, err)
	out := readAll(t, r)
	return out, wait(t, p)
}

// TestEnter enters a running sandbox: a guest is where its host is, and is as little.
func TestEnter(t *testing.T) {
	everyone(t, func(t *testing.T) {
		t.Parallel()
		l := newLauncher(t)
		b := newBox(t, "")
		b.Env = append(b.Env, "COLOUR=green")
		b.Group = true
		host := hosted(t, l, b)

		const look = `pwd; id -u; id -g; echo $COLOUR; cat /proc/1/comm; hostname; ls /; ls /proc/self/fd; grep Cap /proc/self/status; grep -E 'Seccomp:|NoNewPrivs|^Groups' /proc/self/status; ` +
			`cat /proc/self/cgroup; for n in /proc/self/ns/*; do readlink $n; done; ls -A /build; kill -0 1 && echo may`
		script := filepath.Join(b.build, "look")
		must(t, os.WriteFile(script, []byte(look), 0o755))
		out, exit := visit(t, l, host, "/bin/sh", ". ./look; ls "+b.dir+"; exit 7")
		if exit.Code != 7 || exit.Signal != 0 {
			t.Errorf("it ended with %v", exit)
		}
		// The host says the same of itself.
		for _, want := range []string{"/build\n1000\n100\ngreen\nsh\nlocalhost\n", "CapEff:\t0000000000000000\n", "CapBnd:\t0000000000000000\n", "NoNewPrivs:\t1\n", "Seccomp:\t2\n", "look\nmay\n", "No such file"} {
			if !strings.Contains(out, want) {
				t.Errorf("it lacks %q:\n%s", want, out)
			}
		}
		for _, ns := range []string{"mnt", "pid", "net", "ipc", "uts", "user"} {
			id, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", hostPID(t, host), ns))
			must(t, err)
			if !strings.Contains(out, id+"\n") {
				t.Errorf("it is not in the host's %s", id)
			}
		}
		groups, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", hostPID(t, host)))
		must(t, err)
		if !strings.Contains(out, string(groups)) {
			t.Errorf("it is not in the groups of the host, which are\n%sbut it prints\n%s", groups, out)
		}

		if _, exit := visit(t, l, host, "/bin/sh", "kill -TERM $$"); exit.Signal != unix.SIGTERM {
			t.Errorf("killed by SIGTERM, it ended with %v", exit)
		}
		_, err = l.Enter(t.Context(), host, Guest{Path: "/bin/none", Args: []string{"none"}}, Stdio{})
		var exec *ExecError
		if !errors.As(err, &exec) || exec.Errno != unix.ENOENT {
			t.Errorf("a program that is not there: %v", err)
		}

		// What is still there when the host ends, ends.
		guest, err := l.Enter(t.Context(), host, Guest{Path: "/bin/sh", Args: []string{"sh", "-c", "sleep 600"}}, Stdio{})
		must(t, err)
		must(t, os.WriteFile(filepath.Join(b.build, "end"), nil, 0o644))
		if exit := wait(t, host); exit.Code != 0 || exit.Signal != 0 {
			t.Errorf("the host ended with %v", exit)
		}
		if exit := wait(t, guest); exit.Signal != unix.SIGKILL {
			t.Errorf("the guest that stayed ended with %v", exit)
		}
		if _, err := l.Enter(t.Context(), host, Guest{Path: "/bin/sh", Args: []string{"sh"}}, Stdio{}); !errors.Is(err, ErrEnded) {
			t.Errorf("entering what has ended: %v", err)
		}
		b.nothingLeft(t)
	})
}

// hostPID is the number of the process on the machine.
func hostPID(t *testing.T, p *Process) (pid int) {
	t.Helper()
	fd, err := p.dupPIDFD()
	must(t, err)
	defer fd.Close()
	info, err := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", fd.Fd()))
	must(t, err)
	fmt.Sscan(fields(string(info))["Pid"], &pid)
	return pid
}

// TestEnterTerminal sits at a terminal in a sandbox: lines are read from it, keys send
// signals to what runs, and it has the size that it was given.
func TestEnterTerminal(t *testing.T) {
	everyone(t, func(t *testing.T) {
		t.Parallel()
		l := newLauncher(t)
		b := newBox(t, "")
		b.Env = append(b.Env, "PS1=kiln> ")
		host := hosted(t, l, b)
		pty, err := OpenTerminal(b.Users.OutsideUID)
		must(t, err)
		defer pty.Close()
		must(t, pty.Resize(100, 30))
		guest, err := l.Enter(t.Context(), host, Guest{Path: "/bin/sh", Args: []string{"sh"}, Terminal: true}, Stdio{Stdin: pty.Slave, Stdout: pty.Slave, Stderr: pty.Slave})
		must(t, err)
		pty.CloseSlave()
		talk := func(say, until string) {
			t.Helper()
			_, err := io.WriteString(pty.Master, say)
			must(t, err)
			must(t, pty.Master.SetReadDeadline(time.Now().Add(10*time.Second)))
			var heard bytes.Buffer
			for !strings.Contains(heard.String(), until) {
				buf := make([]byte, 512)
				n, err := pty.Master.Read(buf)
				heard.Write(buf[:n])
				if err != nil {
					t.Fatalf("waiting for %q: %v after\n%s", until, err, heard.String())
				}
			}
		}
		// A shell drops what was typed before its prompt.
		const prompt = "kiln> "
		talk("", prompt)
		talk("stty size\n", "30 100\r\n"+prompt)
		must(t, pty.Resize(80, 24))
		talk("stty size\n", "24 80\r\n"+prompt)
		talk("busybox sh -c 'echo rea\"\"dy; exec busybox cat'\n", "ready\r\n")
		talk("\x03", prompt)
		talk("exit 5\n", "exit 5")
		if exit := wait(t, guest); exit.Code != 5 {
			t.Errorf("it ended with %v", exit)
		}
	})
}

// TestEnterUnisolated runs a guest beside a program that is not isolated.
func TestEnterUnisolated(t *testing.T) {
	everyone(t, func(t *testing.T) {
		l := newLauncher(t)
		b := newBox(t, "").unisolated(t)
		host := hosted(t, l, b)
		out, exit := visit(t, l, host, b.Path, "pwd; id -u; echo $BOX; exit 3")
		if want := fmt.Sprintf("%s\n%d\n%s\n", b.build, b.Users.OutsideUID, b.dir); out != want || exit.Code != 3 {
			t.Errorf("it printed %q and ended with %v, want %q", out, exit, want)
		}
	})
}

// TestT29GuestBeforeExec stops a guest just before its exec, where it is in its host's
// pid namespace and has no privileges, but has the launcher's memory and descriptors. What
// is in the sandbox must not get at these.
func TestT29GuestBeforeExec(t *testing.T) {
	everyone(t, func(t *testing.T) {
		l := newLauncher(t)
		b := newBox(t, "")
		host := hosted(t, l, b)
		p := compileGuest(host.spec, hostFacts())
		last := len(p.Instructions) - 1
		exec := p.Instructions[last]
		p.Instructions = p.Instructions[:last]
		p.Add("", call("nanosleep", unix.SYS_NANOSLEEP), program.Bytes(append(binary.NativeEndian.AppendUint64(nil, 600), make([]byte, 8)...), "{600, 0}"), program.Null)
		p.Instructions = append(p.Instructions, exec)
		pidfd, err := host.dupPIDFD()
		must(t, err)
		defer pidfd.Close()
		stdio, done, err := Stdio{}.descriptors()
		must(t, err)
		defer done()
		launched := make(chan error, 1)
		go func() {
			p, err := l.launch(context.Background(), "guest", p, launcher.Request{Successor: 1}, append(stdio, pidfd))
			if err == nil {
				_, err = p.Wait(context.Background())
			}
			launched <- err
		}()
		const look = `for p in /proc/[0-9]*; do
			case $(cat $p/status 2>/dev/null) in *"Name:	exe"*) echo there; for f in environ maps io; do cat $p/$f >/dev/null 2>&1 && echo $f; done; ls $p/fd >/dev/null 2>&1 && echo fd;; esac
		done; true`
		// It never executes anything, so what the launcher has open when it is made stays open.
		for end := time.Now().Add(10 * time.Second); !guestWaits(t, l); time.Sleep(5 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal("the guest did not come")
			}
		}
		out, _ := visit(t, l, host, "/bin/sh", look)
		if out != "there\n" {
			t.Errorf("of a guest that is not yet what it will be, others of the sandbox can see %q", out)
		}
		must(t, host.Kill())
		if err := <-launched; err != nil {
			t.Error(err)
		}
	})
}

// guestWaits tells whether a child of the launcher is in another pid namespace and still a
// copy of the launcher.
func guestWaits(t *testing.T, l *Launcher) bool {
	t.Helper()
	names, err := filepath.Glob("/proc/[0-9]*/status")
	must(t, err)
	for _, name := range names {
		text, _ := os.ReadFile(name) // it may be gone
		status := fields(string(text))
		if status["PPid"] == strconv.Itoa(l.launcherPID()) && status["Name"] == "exe" && strings.Contains(status["NSpid"], " ") {
			return true
		}
	}
	return false
}

// TestT27LauncherKilledWhileEntering kills the launcher while a guest enters: neither
// the guest nor what it was made by is left.
func TestT27LauncherKilledWhileEntering(t *testing.T) {
	everyone(t, func(t *testing.T) {
		for i := range 5 {
			l := NewLauncher()
			b := newBox(t, "")
			host := hosted(t, l, b)
			victim := l.launcherPID()
			entered := make(chan error, 1)
			go func() {
				_, err := l.Enter(context.Background(), host, Guest{Path: "/bin/sh", Args: []string{"sh", "-c", "sleep 600"}}, Stdio{})
				entered <- err
			}()
			time.Sleep(time.Duration(i) * 300 * time.Microsecond)
			must(t, unix.Kill(victim, unix.SIGKILL))
			if err := <-entered; err != nil && !errors.Is(err, ErrInterrupted) && !errors.Is(err, ErrEnded) {
				t.Errorf("entering: %v", err)
			}
			host.Wait(t.Context())
			must(t, l.Close())
		}
		noLaunchers(t)
		testenv.NoProcesses(t, "kiln-sandbox-")
	})
}
