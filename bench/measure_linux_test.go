package main

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/kilnbuild/kiln/internal/testenv"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == measureArg {
		os.Exit(measureChild(os.Args[2:]))
	}
	os.Exit(m.Run())
}

func TestCost(t *testing.T) {
	b := &bench{dir: t.TempDir()}
	var out bytes.Buffer
	c, err := b.cost("", []string{"word=hello"}, &out, testenv.Busybox(t), "sh", "-c", `(i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done); echo $word`)
	if err != nil || out.String() != "hello\n" {
		t.Fatalf("%v, prints %q", err, out.String())
	}
	if c.Wall <= 0 || c.CPU <= 0 || c.RSS < 1<<19 {
		t.Errorf("%+v", c)
	}
	if _, err := b.cost("", nil, nil, testenv.Busybox(t), "false"); err == nil {
		t.Error("a program that failed has a cost")
	}
}

// What is measured in another root directory sees the work directory where it was,
// and this run's accounts, and leaves nothing in that root.
func TestEnterRoot(t *testing.T) {
	testenv.NeedRoot(t)
	root, dir := t.TempDir(), t.TempDir()
	for _, sub := range []string{"proc", "dev", "etc", "tmp"} {
		if err := os.Mkdir(filepath.Join(root, sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"etc/passwd", "etc/group"} {
		if err := os.WriteFile(filepath.Join(root, name), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if out, err := exec.Command("cp", testenv.Busybox(t), filepath.Join(root, "busybox")).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	b := &bench{dir: dir}
	var out bytes.Buffer
	_, err := b.cost(root, []string{"dir=" + dir}, &out, "/busybox", "sh", "-e", "-c", `
		alias ls='/busybox ls' stat='/busybox stat' grep='/busybox grep'
		ls /
		stat -c %a "${dir%/*}"
		echo mine > $dir/file
		grep -q ^root: /etc/passwd
		if echo 2>/dev/null > /no; then echo wrote into the root directory; fi
		test -e /proc/self/exe
	`)
	if want := "busybox\ndev\netc\nproc\ntmp\n755\n"; err != nil || out.String() != want {
		t.Errorf("%v, prints %q, want %q", err, out.String(), want)
	}
	if text, err := os.ReadFile(filepath.Join(dir, "file")); err != nil || string(text) != "mine\n" {
		t.Errorf("the work directory has %q, %v", text, err)
	}
	for _, sub := range []string{"tmp", "dev", "proc"} {
		if left, err := os.ReadDir(filepath.Join(root, sub)); err != nil || len(left) > 0 {
			t.Errorf("%s has %v, %v", sub, left, err)
		}
	}
}
