package cgroup

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/kilnbuild/kiln/internal/testenv"
)

// enter starts a shell that joins the group and then runs a script.
func enter(t *testing.T, g *Group, script string) *exec.Cmd {
	t.Helper()
	join := ""
	for _, f := range g.Entrances() {
		join += "echo 0 >" + f.Name() + "; "
	}
	return exec.Command("sh", "-c", join+script)
}

func needMemory(t *testing.T, p *Parent) {
	t.Helper()
	testenv.NeedRoot(t)
	if len(p.lacks) > 0 {
		testenv.SkipSandbox(t, "this machine has not all controllers: %v", p.lacks)
	}
}

func TestGroup(t *testing.T) {
	p := NewParent()
	defer p.Close()
	g, err := p.Create(Limits{Memory: 32 << 20, Processes: 20, CPUWeight: 50, CPUQuota: 150})
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	needMemory(t, p)
	dirs := g.dirs

	// A shell that doubles a text until there is no more memory.
	out, err := enter(t, g, `x=0123456789abcdef; while :; do x=$x$x; done`).CombinedOutput()
	if err == nil {
		t.Errorf("a memory hog ends well: %s", out)
	}
	if u := g.Usage(); u.OutOfMemory == 0 || u.PeakMemory < 16<<20 || u.PeakMemory > 33<<20 || u.UserTime+u.SystemTime <= 0 {
		t.Errorf("after a memory hog: %+v", u)
	}
	if out, err := enter(t, g, "for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25; do sleep 0.1 & done; wait").CombinedOutput(); err == nil {
		t.Errorf("more processes than the limit: %s", out)
	}
	if u := g.Usage(); u.Refused == 0 {
		t.Errorf("after too many processes: %+v", u)
	}
	if err := g.Close(); err != nil {
		t.Error(err)
	}
	if u := g.Usage(); u.Refused == 0 {
		t.Errorf("after the end: %+v", u)
	}
	p.Close()
	for _, dir := range dirs {
		if _, err := os.Stat(filepath.Dir(dir)); !os.IsNotExist(err) {
			t.Errorf("%s is left: %v", filepath.Dir(dir), err)
		}
	}
}

// TestSweep wants that the next process removes what one that was killed has left.
func TestSweep(t *testing.T) {
	left := NewParent()
	g, err := left.Create(Limits{})
	if err != nil {
		t.Fatal(err)
	}
	needMemory(t, left)
	alive := NewParent()
	defer alive.Close()
	if _, err := alive.Create(Limits{}); err != nil {
		t.Fatal(err)
	}
	for _, dir := range g.dirs {
		if _, err := os.Stat(dir); err != nil {
			t.Errorf("a group in use was removed: %v", err)
		}
	}
	for _, f := range left.locks {
		f.Close() // as the kernel does
	}
	next := NewParent()
	defer next.Close()
	if _, err := next.Create(Limits{}); err != nil {
		t.Fatal(err)
	}
	for _, dir := range left.dirs {
		if _, err := os.Stat(dir); !os.IsNotExist(err) {
			t.Errorf("%s is left: %v", dir, err)
		}
	}
	for _, dir := range alive.dirs {
		if _, err := os.Stat(dir); err != nil {
			t.Errorf("a directory in use was removed: %v", err)
		}
	}
}

// TestLacks wants an honest answer where there are no controllers.
func TestLacks(t *testing.T) {
	p := &Parent{opened: true, version: 1, lacks: map[Resource]string{Memory: "none", Processes: "none", CPU: "none"}}
	g, err := p.Create(Limits{Memory: 1 << 30, CPUQuota: 100})
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	var text []string
	for _, l := range g.Lacks() {
		text = append(text, string(l.Resource))
	}
	if got := strings.Join(text, " "); got != "memory cpu" || g.Counts() || len(g.Entrances()) != 0 {
		t.Errorf("lacks are %q, counts %v", got, g.Counts())
	}
}

func TestValidate(t *testing.T) {
	for _, l := range []Limits{{Memory: -1}, {Memory: 1}, {Processes: -1}, {CPUWeight: 10001}, {CPUQuota: MaxCPUQuota + 1}} {
		if _, err := NewParent().Create(l); err == nil {
			t.Errorf("%+v is taken", l)
		}
	}
}

func BenchmarkGroup(b *testing.B) {
	p := NewParent()
	defer p.Close()
	for b.Loop() {
		g, err := p.Create(Limits{Memory: 1 << 30, Processes: 1000})
		if err != nil {
			b.Fatal(err)
		}
		if err := g.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

// TestMoveAll wants that the processes of a group go where they are told to.
func TestMoveAll(t *testing.T) {
	testenv.NeedRoot(t)
	p := NewParent()
	defer p.Close()
	g, err := p.Create(Limits{})
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	dir := g.dirs[unified]
	if dir == "" {
		testenv.SkipSandbox(t, "this machine has no hierarchy of version 2")
	}
	into := filepath.Join(dir, leaf)
	if err := os.Mkdir(into, 0o755); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(into)
	cmd := enter(t, g, "read x")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer stdin.Close()
	procs := func(dir string) string {
		text, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimSpace(string(text))
	}
	for procs(dir) == "" {
		time.Sleep(time.Millisecond)
	}
	if err := moveAll(dir, into); err != nil {
		t.Fatal(err)
	}
	if procs(dir) != "" || procs(into) != strconv.Itoa(cmd.Process.Pid) {
		t.Errorf("left: %q, moved: %q", procs(dir), procs(into))
	}
	if got, err := vacate(into); got != dir || err != nil {
		t.Errorf("the group around the leaf: %q, %v", got, err)
	}
}
