package testenv

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) { os.Exit(Main(m, "ktestenv")) }

// start runs a program that waits, and ends it with the test.
func start(t *testing.T, configure func(*exec.Cmd)) {
	t.Helper()
	cmd := exec.Command("sleep", "100")
	configure(cmd)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
}

func TestProcesses(t *testing.T) {
	dir := t.TempDir()
	for name, configure := range map[string]func(c *exec.Cmd, mark string){
		"by its command line": func(c *exec.Cmd, mark string) {
			c.Path, c.Args = "/bin/sh", []string{"sh", "-c", "sleep 100; : " + mark}
		},
		"by its environment":       func(c *exec.Cmd, mark string) { c.Env = []string{"X=" + mark} },
		"by its working directory": func(c *exec.Cmd, mark string) { c.Dir = mkdir(t, filepath.Join(dir, mark)) },
		"by its mounts": func(c *exec.Cmd, mark string) {
			source := mkdir(t, filepath.Join(dir, mark))
			c.Path, c.Args = "/bin/sh", []string{"sh", "-c", "mount --bind " + source + " /mnt && cd / && exec env -i sleep 100"}
			c.SysProcAttr = &unix.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}
		},
	} {
		t.Run(name, func(t *testing.T) {
			if strings.HasSuffix(name, "mounts") && !Root() {
				t.Skip("needs root to mount")
			}
			mark := "mark-" + strings.ReplaceAll(name, " ", "-")
			if left := processes(mark); len(left) != 0 {
				t.Fatalf("there is a process already: %v", left)
			}
			start(t, func(c *exec.Cmd) { configure(c, mark) })
			for range 1000 {
				if left := processes(mark); len(left) == 1 {
					return
				}
				unix.Nanosleep(&unix.Timespec{Nsec: 1e6}, nil)
			}
			t.Error("the process was not found")
		})
	}
}

func mkdir(t *testing.T, dir string) string {
	t.Helper()
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestSceneIsPrivateAndGoesAway(t *testing.T) {
	t.Setenv("NIX_REMOTE", "daemon")
	var dir string
	t.Run("scene", func(t *testing.T) {
		s := NewScene(t, t.TempDir())
		dir = s.Dir
		for _, kv := range s.Env() {
			name, value, _ := strings.Cut(kv, "=")
			switch {
			case name == "NIX_REMOTE":
				t.Error("NIX_REMOTE is inherited")
			case name == "HOME" || name == "TMPDIR" || name == "NIX_STATE_DIR":
				if !strings.HasPrefix(value, s.Dir) {
					t.Errorf("%s is outside of the scene", kv)
				}
			}
		}
		readOnly := s.Mkdir("store", "sub")
		if err := os.Chmod(readOnly, 0o555); err != nil {
			t.Fatal(err)
		}
	})
	if _, err := os.Lstat(dir); !os.IsNotExist(err) {
		t.Errorf("the scene is still there: %v", err)
	}
}

func TestEnclaveHasBuildUsers(t *testing.T) {
	NeedRoot(t)
	e := Enclave()
	if e == nil {
		t.Fatal("root's tests are in no enclave")
	}
	out, err := exec.Command("getent", "group", "ktestenv").Output()
	if err != nil || !strings.Contains(string(out), "ktestenv1,ktestenv2") {
		t.Errorf("getent group: %v: %s", err, out)
	}
	for _, uid := range e.Group("ktestenv").UIDs {
		if uid < 1<<16 {
			t.Errorf("build user %d may be somebody", uid)
		}
	}
}

func TestAsOrdinaryUser(t *testing.T) {
	if !AsOrdinaryUser(t) {
		return
	}
	if Root() {
		t.Error("still root")
	}
	if err := os.WriteFile(filepath.Join(t.TempDir(), "x"), nil, 0o600); err != nil {
		t.Errorf("the user has no place for files: %v", err)
	}
}
