package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	confinedArg       = "-confined"
	confinementFailed = 125
)

// confinement gives a process a mount namespace, a pid namespace and a network of
// its own.
func confinement() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWNET | syscall.CLONE_NEWIPC,
		Pdeathsig:  syscall.SIGKILL,
	}
}

// confined makes everything read-only but a new directory in memory, runs the
// program and exits as that did. args are the directory that has the program, and its command line.
func confined(args []string) error {
	dir := args[0]
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	readOnly := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
	if err := unix.MountSetattr(unix.AT_FDCWD, "/", unix.AT_RECURSIVE, &readOnly); err != nil {
		return fmt.Errorf("make everything read-only: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	// Terminals are given to those who may use them.
	writable := unix.MountAttr{Attr_clr: unix.MOUNT_ATTR_RDONLY}
	if err := unix.MountSetattr(unix.AT_FDCWD, "/dev/pts", 0, &writable); err != nil {
		return fmt.Errorf("make terminals writable: %w", err)
	}
	// What is needed of the directories that get another content: the program, and the
	// sources of the tests.
	source, err := top()
	if err != nil {
		return err
	}
	kept := map[string]int{dir: -1, source: -1}
	for path := range kept {
		if kept[path], err = unix.OpenTree(unix.AT_FDCWD, path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC); err != nil {
			return fmt.Errorf("keep '%s': %w", path, err)
		}
	}
	for _, place := range []string{os.TempDir(), "/dev/shm", "/run"} {
		if err := unix.Mount("tmpfs", place, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=0755"); err != nil {
			return fmt.Errorf("mount '%s': %w", place, err)
		}
	}
	here, err := os.Getwd()
	if err != nil {
		return err
	}
	for path, tree := range kept {
		if err := os.MkdirAll(path, 0o755); err != nil && !errors.Is(err, unix.EROFS) {
			return err
		}
		if err := unix.MoveMount(tree, "", unix.AT_FDCWD, path, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
			return fmt.Errorf("show '%s': %w", path, err)
		}
	}
	if err := os.Chdir(here); err != nil {
		return err
	}
	// Nobody but root may make a name on the way to a build directory.
	scratch := filepath.Join(os.TempDir(), "scratch")
	if err := os.Mkdir(scratch, 0o777); err != nil {
		return err
	}
	if err := os.Chmod(scratch, 0o777|os.ModeSticky); err != nil {
		return err
	}
	if err := loopback(); err != nil {
		return fmt.Errorf("bring up the loopback interface: %w", err)
	}
	// Tests take low numbers of processes for those inside of a sandbox.
	if err := os.WriteFile("/proc/sys/kernel/ns_last_pid", []byte("20000"), 0); err != nil {
		return err
	}
	cmd := exec.Command(args[1], args[2:]...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), "TMPDIR="+scratch, "HOME="+scratch)
	var failed *exec.ExitError
	if err := cmd.Run(); errors.As(err, &failed) {
		os.Exit(1)
	} else if err != nil {
		return err
	}
	os.Exit(0)
	return nil
}

// top is the directory of the module that the working directory is in.
func top() (string, error) {
	dir, err := os.Getwd()
	for err == nil {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		if dir == "/" {
			return "", errors.New("find the sources of the tests: there is no go.mod above the working directory")
		}
		dir = filepath.Dir(dir)
	}
	return "", err
}

// loopback lets servers and clients of tests find each other.
func loopback() error {
	sock, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(sock)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	lo.SetUint16(unix.IFF_UP)
	return unix.IoctlIfreq(sock, unix.SIOCSIFFLAGS, lo)
}
