package sandbox

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kilnbuild/kiln/internal/rmtree"
	"github.com/kilnbuild/kiln/internal/testenv"
	"golang.org/x/sys/unix"
)

// noStacksSoon gives stacks that were killed by the kernel some time to end.
func noStacksSoon(t *testing.T) {
	t.Helper()
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end) && len(stackProcesses(t)) > 0; {
		time.Sleep(5 * time.Millisecond)
	}
	noStacks(t)
}

// TestT27UserNetworkInterrupted kills the launcher, or cancels, at any moment of
// the start of a program and its stack.
func TestT27UserNetworkInterrupted(t *testing.T) {
	eachStack(t, func(t *testing.T, _ *scene, warm *Launcher, n UserNetwork) {
		begin := time.Now()
		newBox(t, "true").networked(n).succeed(t, warm)
		span := 2 * time.Since(begin)
		cancelled := errors.New("cancelled by the test")
		for i := range 14 {
			l := NewLauncher()
			b := newBox(t, "sleep 600 & sleep 600").networked(n)
			_, err := l.get()
			must(t, err)
			victim := l.launcherPID()
			ctx, cancel := context.WithCancelCause(t.Context())
			interrupt := time.AfterFunc(rand.N(span), func() {
				if i%2 == 0 {
					cancel(cancelled)
				} else {
					unix.Kill(victim, unix.SIGKILL)
				}
			})
			p, err := l.Start(ctx, b.Spec, Stdio{})
			if err == nil {
				if interrupt.Stop() || l.launcherPID() != victim || i%2 == 0 {
					p.Kill()
				}
				exit, err := p.Wait(t.Context())
				if !errors.Is(err, ErrInterrupted) && exit.Signal != unix.SIGKILL {
					t.Errorf("it ended with %v, %v", exit, err)
				}
			} else if !errors.Is(err, ErrInterrupted) && !errors.Is(err, cancelled) {
				t.Errorf("start gives %v", err)
			}
			cancel(nil)
			must(t, l.Close())
			b.nothingLeft(t)
		}
		noStacksSoon(t)
	})
	if os.Getenv(stageVar) == "" {
		noLaunchers(t)
	}
}

// TestT28OwnerOfUserNetworkKilled kills the process that has the launcher.
func TestT28OwnerOfUserNetworkKilled(t *testing.T) {
	eachStack(t, func(t *testing.T, _ *scene, _ *Launcher, n UserNetwork) {
		cmd := exec.Command("/proc/self/exe", string(n.Stack), n.Program)
		cmd.Env = append(os.Environ(), insideVar+"=owns networked")
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
		noStacksSoon(t)
	})
}

func init() {
	roles["owns networked"] = func() {
		t := &miniT{}
		b := newBox(t, "sleep 600 & echo ready; sleep 600").networked(UserNetwork{UserStack(os.Args[1]), os.Args[2]})
		_, r := b.start(t, NewLauncher())
		_, err := io.ReadFull(r, make([]byte, 6))
		must(t, err)
		fmt.Println("dir", b.dir)
		time.Sleep(time.Minute) // to be killed
	}
}

// TestUserNetworkAtOnce starts many programs at once: they hold copies of each
// other's descriptors for a moment.
func TestUserNetworkAtOnce(t *testing.T) {
	eachStack(t, func(t *testing.T, s *scene, l *Launcher, n UserNetwork) {
		ended := make(chan error)
		const many = 6
		for range many {
			b := newBox(t, "").networked(n).plays(t, "reaches", "+"+s.Outside[0])
			go func() {
				p, err := l.Start(context.Background(), b.Spec, Stdio{})
				if err == nil {
					var exit Exit
					if exit, err = p.Wait(context.Background()); err == nil && exit.Code != 0 {
						err = fmt.Errorf("it ended with %v", exit)
					}
				}
				ended <- err
			}()
		}
		for range many {
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
	})
}

// TestUserNetworkOfManyUsers has a program that is the root of its namespace: it may
// take rules back, but the stack still keeps it from the machine.
func TestUserNetworkOfManyUsers(t *testing.T) {
	eachStack(t, func(t *testing.T, s *scene, l *Launcher, n UserNetwork) {
		if !testenv.Root() {
			return // has one user only
		}
		loopback := elsewhere(s.Loopback[0], userGateway4)
		b := newBox(t, "").networked(n).plays(t, "reaches", "+"+s.Outside[0], loopback)
		b.Users.InsideUID, b.Users.InsideGID, b.Users.Count = 0, 0, 65536
		rules := "for n in 1 2 3 4 5 6 7; do /bin/busybox ip rule del pref $n; /bin/busybox ip -6 rule del pref $n; done 2>/dev/null; exec /bin/test \"$@\""
		b.Path, b.Args = "/bin/busybox", append([]string{"sh", "-c", rules, "sh"}, b.Args[1:]...)
		out := b.succeed(t, l)
		want := fmt.Sprintf("+%s\thello\n%s\t", s.Outside[0], loopback)
		if !strings.HasPrefix(out, want) || strings.Count(out, "hello") != 1 {
			t.Errorf("it printed:\n%s", out)
		}
	})
}
