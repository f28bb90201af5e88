package sandbox

import (
	"bytes"
	"context"
	"debug/elf"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/kilnbuild/kiln/internal/rmtree"
	"github.com/kilnbuild/kiln/internal/testenv"
	"github.com/kilnbuild/kiln/mountns"
	"go.uber.org/goleak"
)

// insideVar makes the test binary do something else than test: it is what runs
// in sandboxes, and what plays an owner of a launcher who gets killed.
const insideVar = "KILN_TEST_ROLE"

var roles = map[string]func(){}

func TestMain(m *testing.M) {
	if role := os.Getenv(insideVar); role != "" {
		roles[role]()
		os.Exit(0)
	}
	if place := os.Getenv(placeVar); place != "" {
		if err := places[place](); err != nil {
			fmt.Fprintf(os.Stderr, "%s: %v\n", place, err)
			os.Exit(1)
		}
	}
	goleak.VerifyTestMain(m)
}

// everyone runs a test as the user that it was started by and, if that is root,
// as an ordinary user too.
func everyone(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	testenv.Sandbox(t)
	f(t)
	if !t.Failed() {
		testenv.AsOrdinaryUser(t)
	}
}

// testIDs are ids that no account of a machine has; each box has its own.
var testIDs atomic.Int64

func nextID() int { return 910_000_000 + os.Getpid()%100_000*1000 + int(testIDs.Add(1)) }

// newLauncher is a launcher that ends with the test.
func newLauncher(t testing.TB) *Launcher {
	t.Helper()
	l := NewLauncher()
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Errorf("close launcher: %v", err)
		}
	})
	return l
}

// A box is a usual sandbox in directories of its own.
type box struct {
	*Spec
	dir   string // has everything of it, and nothing else has its name
	build string // the machine's name of /build
}

// newBox describes a sandbox in which busybox runs a script.
func newBox(t testing.TB, script string) *box {
	t.Helper()
	testenv.Sandbox(t)
	return anyBox(t, script)
}

// anyBox is newBox for a machine that may have no sandbox.
func anyBox(t testing.TB, script string) *box {
	t.Helper()
	busybox := testenv.Busybox(t)
	dir, err := os.MkdirTemp("", "kiln-sandbox-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// Whoever ended may have a little dying left to do.
		if err := rmtree.RemoveTree(dir); err != nil {
			t.Errorf("remove what a sandbox left: %v", err)
		}
	})
	b := &box{dir: dir, build: filepath.Join(dir, "build")}
	uid, gid := os.Getuid(), os.Getgid()
	if testenv.Root() {
		uid = nextID()
		gid = uid
	}
	must(t, os.Chmod(dir, 0o755))
	must(t, os.Mkdir(b.build, 0o700))
	if testenv.Root() {
		must(t, os.Chown(b.build, uid, gid))
	}
	b.Spec = &Spec{
		Name: t.Name(), Path: "/bin/sh", Args: []string{"sh", "-c", script},
		Env: []string{"PATH=/bin", "HOME=/homeless-shelter"}, Dir: "/build",
		Isolation: Full, Root: filepath.Join(dir, "root"),
		Tree: append([]Entry{
			Dir("/", 0o750).OwnedBy(0, gid),
			Dir("/tmp", ModeSticky),
			Dir("/bin", 0o755),
			Symlink("/bin/sh", "busybox"),
			Dir("/etc", 0o555),
			File("/etc/passwd", 0o644, "builder:x:1000:100::/build:/bin/sh\n"),
			Dir("/data", 0o755),
			Dir("/data/store", ModeStickyGroup).OwnedBy(0, gid),
		}, DevTree()...),
		Mounts: append([]mountns.Mount{
			{Kind: mountns.Bind, Source: busybox, Target: "/bin/busybox"},
			{Kind: mountns.Bind, Source: b.build, Target: "/build", Writable: true},
		}, append(DevMounts(),
			mountns.Mount{Kind: mountns.Proc, Target: "/proc"},
			mountns.Mount{Kind: mountns.Tmpfs, Target: "/dev/shm", Size: "1m"},
			mountns.Mount{Kind: mountns.Devpts, Target: "/dev/pts"})...),
		Users:    Users{Namespace: true, OutsideUID: uid, OutsideGID: gid, InsideUID: 1000, InsideGID: 100},
		Network:  NetworkPrivate,
		Hostname: "localhost", Domainname: "(none)",
		FilterSyscalls: true,
	}
	return b
}

// belongsTo gives the box to a user and group.
func (b *box) belongsTo(t testing.TB, uid, gid int) {
	t.Helper()
	b.Users.OutsideUID, b.Users.OutsideGID = uid, gid
	for i := range b.Tree {
		if b.Tree[i].Owned {
			b.Tree[i].GID = gid
		}
	}
	if testenv.Root() {
		must(t, os.Chown(b.build, uid, gid))
	}
}

// unisolated makes the box run its script among the machine's processes.
func (b *box) unisolated(t testing.TB) *box {
	t.Helper()
	b.Isolation, b.Root, b.Tree, b.Mounts = None, "", nil, nil
	b.Path, b.Args[0] = testenv.Busybox(t), "sh"
	b.Env = []string{"PATH=/usr/bin:/bin", "BOX=" + b.dir}
	b.Dir = b.build
	b.Users.Namespace = false
	return b
}

// plays makes the box run a role of the test binary instead of a script.
func (b *box) plays(t testing.TB, role string, args ...string) *box {
	t.Helper()
	// A copy: an ordinary user may not get at the binary by its name.
	self := filepath.Join(b.dir, "test")
	program, err := os.ReadFile("/proc/self/exe")
	must(t, err)
	must(t, os.WriteFile(self, program, 0o755))
	b.Path, b.Args = "/bin/test", append([]string{"test"}, args...)
	b.Env = append(b.Env, insideVar+"="+role)
	b.Mounts = append(b.Mounts, mountns.Mount{Kind: mountns.Bind, Source: self, Target: "/bin/test"})
	if !isStatic(t, self) {
		// The race detector wants the C library.
		for _, lib := range []string{"/lib", "/lib64", "/usr/lib", "/usr/lib64"} {
			b.Mounts = append(b.Mounts, mountns.Mount{Kind: mountns.Bind, Source: lib, Target: lib, Optional: true})
		}
	}
	return b
}

func isStatic(t testing.TB, program string) bool {
	t.Helper()
	f, err := elf.Open(program)
	must(t, err)
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return false
		}
	}
	return true
}

// start starts the box. What it prints comes from the reader, which ends when
// nobody has the other end any more.
func (b *box) start(t testing.TB, l *Launcher) (*Process, *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	must(t, err)
	t.Cleanup(func() { r.Close() })
	p, err := l.Start(context.Background(), b.Spec, Stdio{Stdout: w, Stderr: w})
	w.Close()
	if err != nil {
		t.Fatalf("start: %v", err)
	}
	return p, r
}

// run runs the box to its end.
func (b *box) run(t testing.TB, l *Launcher) (string, Exit) {
	t.Helper()
	p, r := b.start(t, l)
	var out bytes.Buffer
	_, err := io.Copy(&out, r)
	must(t, err)
	return out.String(), wait(t, p)
}

// succeed runs a box that must end with exit code 0.
func (b *box) succeed(t testing.TB, l *Launcher) string {
	t.Helper()
	out, exit := b.run(t, l)
	if exit.Code != 0 || exit.Signal != 0 {
		t.Fatalf("it ended with %v and printed:\n%s", exit, out)
	}
	return out
}

func wait(t testing.TB, p *Process) Exit {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	exit, err := p.Wait(ctx)
	must(t, err)
	return exit
}

// nothingLeft fails the test if a process or mount of the box is left.
func (b *box) nothingLeft(t testing.TB) {
	t.Helper()
	testenv.NoProcesses(t, filepath.Base(b.dir))
	testenv.NoMounts(t, filepath.Base(b.dir))
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// fields reads lines of the form "Name: value" or "Name:\tvalue".
func fields(text string) map[string]string {
	m := map[string]string{}
	for line := range strings.Lines(text) {
		if name, value, ok := strings.Cut(line, ":"); ok {
			m[name] = strings.Join(strings.Fields(value), " ")
		}
	}
	return m
}

func readAll(t testing.TB, r io.Reader) string {
	t.Helper()
	text, err := io.ReadAll(r)
	must(t, err)
	return string(text)
}

// miniT is a testing.TB for roles, which are not tests: what fails ends the
// process with a message and exit code 1.
type miniT struct {
	testing.TB
	cleanups []func()
}

func (t *miniT) Helper()                   {}
func (t *miniT) Name() string              { return "role" }
func (t *miniT) Cleanup(f func())          { t.cleanups = append(t.cleanups, f) }
func (t *miniT) Fatal(args ...any)         { t.Fatalf("%s", fmt.Sprint(args...)) }
func (t *miniT) Errorf(f string, a ...any) { t.Fatalf(f, a...) }
func (t *miniT) Skip(args ...any)          { t.Fatal(args...) }

func (t *miniT) Fatalf(format string, args ...any) {
	fmt.Fprintf(os.Stderr, format+"\n", args...)
	t.end()
	os.Exit(1)
}

// end does what was left for the end.
func (t *miniT) end() {
	for i := len(t.cleanups) - 1; i >= 0; i-- {
		f := t.cleanups[i]
		t.cleanups = t.cleanups[:i]
		f()
	}
}
