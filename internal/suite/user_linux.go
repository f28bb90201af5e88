package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
)

// asUserArg makes this program what `go test -exec` calls for each test binary.
const asUserArg = "as-user"

// The environment tells that process what the session has prepared.
const (
	userVar   = "KILN_SUITE_USER"   // the id
	sourceVar = "KILN_SUITE_SOURCE" // the tree that go test runs in
	copyVar   = "KILN_SUITE_COPY"   // a copy of it for the user
	homeVar   = "KILN_SUITE_HOME"
)

// A user is an ordinary one: with an id that no account has, a home, and a copy
// of the tree, because the tree may be where nobody but root can go.
type user struct {
	id         int
	exec       string // for go test's -exec
	home, tree string
	source     string
}

// userID is in a range that systems hand out to nobody.
const userID = 899_999_998

func newUser(dir string) (*user, error) {
	source, err := os.Getwd()
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	u := &user{id: userID, exec: self + " " + asUserArg, home: filepath.Join(dir, "home"), tree: filepath.Join(dir, "tree"), source: source}
	if err := os.Mkdir(u.home, 0o755); err != nil {
		return nil, err
	}
	if err := os.Chown(u.home, u.id, u.id); err != nil {
		return nil, err
	}
	return u, copyTree(source, u.tree)
}

func (u *user) env() []string {
	return []string{
		userVar + "=" + strconv.Itoa(u.id), sourceVar + "=" + u.source, copyVar + "=" + u.tree, homeVar + "=" + u.home,
	}
}

// noProcesses tells whether processes of the user are left, and ends them.
func (u *user) noProcesses() (string, error) {
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return "", err
	}
	var found strings.Builder
	for _, dir := range dirs {
		info, err := os.Stat(dir)
		if err != nil || int(info.Sys().(*syscall.Stat_t).Uid) != u.id {
			continue
		}
		command, _ := os.ReadFile(filepath.Join(dir, "cmdline"))
		fmt.Fprintf(&found, "%s %q\n", dir, strings.ReplaceAll(string(command), "\x00", " "))
		if pid, err := strconv.Atoi(filepath.Base(dir)); err == nil {
			syscall.Kill(pid, syscall.SIGKILL)
		}
	}
	if found.Len() > 0 {
		return found.String(), errors.New("tests left processes")
	}
	return "", nil
}

// copyTree copies the sources: regular files and symlinks, without what git and
// builds keep there.
func copyTree(from, to string) error {
	return filepath.WalkDir(from, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		target := filepath.Join(to, rel)
		switch {
		case rel == ".git" || rel == "build" || rel == "kiln":
			if d.IsDir() {
				return fs.SkipDir
			}
			return nil
		case d.IsDir():
			return os.Mkdir(target, 0o755)
		case d.Type() == fs.ModeSymlink:
			link, err := os.Readlink(path)
			if err != nil {
				return err
			}
			return os.Symlink(link, target)
		case d.Type().IsRegular():
			return copyFile(path, target)
		}
		return nil
	})
}

// copyFile copies a file that everybody may read then.
func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return err
	}
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, info.Mode().Perm()|0o444)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		out.Close()
		return err
	}
	return out.Close()
}

// runAsUser runs a test binary, given with its arguments, as the user. It gives
// the exit status.
func runAsUser(args []string) int {
	status, err := startAsUser(args)
	if err != nil {
		fmt.Fprintf(os.Stderr, "run %s as an ordinary user: %v\n", filepath.Base(args[0]), err)
		return 1
	}
	return status
}

func startAsUser(args []string) (int, error) {
	id, err := strconv.Atoi(os.Getenv(userVar))
	if err != nil {
		return 0, fmt.Errorf("%s is not set: go test calls this program, you do not", userVar)
	}
	home := os.Getenv(homeVar)
	// go test keeps its binaries where only root can go.
	programs, err := os.MkdirTemp(filepath.Dir(home), "b")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(programs)
	if err := os.Chmod(programs, 0o755); err != nil {
		return 0, err
	}
	binary := filepath.Join(programs, filepath.Base(args[0]))
	if err := copyFile(args[0], binary); err != nil {
		return 0, err
	}
	wd, err := os.Getwd()
	if err != nil {
		return 0, err
	}
	pkg, err := filepath.Rel(os.Getenv(sourceVar), wd)
	if err != nil {
		return 0, err
	}
	cmd := exec.Command(binary, args[1:]...)
	cmd.Dir = filepath.Join(os.Getenv(copyVar), pkg)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	for _, kv := range os.Environ() {
		name, _, _ := strings.Cut(kv, "=")
		if !strings.HasPrefix(name, "KILN_SUITE_") && !strings.HasPrefix(name, "GO") && !strings.HasPrefix(name, "XDG_") {
			cmd.Env = append(cmd.Env, kv)
		}
	}
	cmd.Env = append(cmd.Env, "HOME="+home, "USER=tester", "LOGNAME=tester", "PWD="+cmd.Dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Credential: &syscall.Credential{Uid: uint32(id), Gid: uint32(id)},
		Pdeathsig:  syscall.SIGKILL,
	}
	// The kernel takes the end of the starting thread for the death of the parent.
	runtime.LockOSThread()
	err = cmd.Run()
	if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && exit.Exited() {
		return exit.ExitCode(), nil
	}
	return 0, err
}
