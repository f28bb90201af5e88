package hook

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kilnbuild/kiln/internal/testenv"
	"go.uber.org/goleak"
)

// roleVar makes the test binary a build hook; see play.
const roleVar = "KILN_TEST_BUILD_HOOK"

func TestMain(m *testing.M) {
	if role := os.Getenv(roleVar); role != "" {
		os.Exit(play(strings.Fields(role)))
	}
	goleak.VerifyTestMain(m)
}

// A bench has the hooks of one test. Whatever they leave running fails it.
type bench struct {
	*testenv.Scene
	t testing.TB
}

func newBench(t testing.TB) *bench {
	t.Helper()
	b := &bench{Scene: testenv.NewScene(t, ""), t: t}
	must(t, os.Chmod(b.Tmp(), 0o777))
	return b
}

// script makes a hook of a shell's script.
func (b *bench) script(text string) string {
	b.t.Helper()
	p := b.Path("hook")
	must(b.t, os.WriteFile(p, []byte("#!/bin/sh\n"+text), 0o755))
	return p
}

// fifo makes a fifo that anybody may write to, and gives its path.
func (b *bench) fifo(name string) string {
	b.t.Helper()
	p := b.Path(name)
	must(b.t, syscall.Mkfifo(p, 0o600))
	must(b.t, os.Chmod(p, 0o666))
	return p
}

// cancelledBy gives a context that ends, with a cause, as soon as something writes
// a line to the fifo.
func (b *bench) cancelledBy(fifo string, cause error) context.Context {
	ctx, cancel := context.WithCancelCause(b.t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		// Also to write, so that the test can end it.
		if f, err := os.OpenFile(fifo, os.O_RDWR, 0); err == nil {
			defer f.Close()
			f.Read(make([]byte, 1))
			cancel(cause)
		}
	}()
	b.t.Cleanup(func() {
		if f, err := os.OpenFile(fifo, os.O_RDWR, 0); err == nil {
			f.Write([]byte("\n"))
			<-done
			f.Close()
		}
		cancel(nil)
	})
	return ctx
}

// everyone runs a test as the user that it was started by and, if that is root,
// as an ordinary user too.
func everyone(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	f(t)
	if !t.Failed() {
		testenv.AsOrdinaryUser(t)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// within fails a test whose hook ended only because somebody lost patience.
func within(t testing.TB, limit time.Duration, f func()) {
	t.Helper()
	begin := time.Now()
	f()
	if took := time.Since(begin); took > limit {
		t.Errorf("it took %v", took)
	}
}

// sleep is a command that sleeps for longer than any test, and can be told by
// the bench's mark.
func (b *bench) sleep() string {
	b.t.Helper()
	path, err := exec.LookPath("sleep")
	must(b.t, err)
	link := b.Path("sleep")
	if _, err := os.Lstat(link); err != nil {
		must(b.t, os.Symlink(path, link))
	}
	return link + " 1000"
}

// gone waits until no process has to do with the bench.
func (b *bench) gone() {
	b.t.Helper()
	testenv.NoProcesses(b.t, filepath.Base(b.Dir))
}
