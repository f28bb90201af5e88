package enclave

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// insideVar is set for the process that is in the enclave, to its directory.
const insideVar = "KILN_ENCLAVE_DIR"

// firstID is where the ids of build users start. The range is above what
// systems hand out to people, to services and to containers by default.
const firstID = 900_000_000

// Run starts the program again in an enclave and gives that process's exit
// status when it has ended. In that process Run makes the enclave, calls inside,
// and gives what inside returned. So Run comes first in a program, and the
// program ends with the status it gives:
//
//	status, err := enclave.Run(opts, inside)
//
// Run needs root. While the enclave exists, SIGINT and SIGTERM to the first
// process are passed on.
func Run(opts Options, inside func(*Enclave) int) (int, error) {
	if dir := os.Getenv(insideVar); dir != "" {
		os.Unsetenv(insideVar)
		e, err := enter(opts, dir)
		if err != nil {
			return 0, err
		}
		return inside(e), nil
	}
	if os.Geteuid() != 0 {
		return 0, errors.New("enter mount namespace: only root may")
	}
	// Below /run, since nothing above a builder's directory may be writable by
	// everybody.
	dir, err := os.MkdirTemp("/run", "kiln-enclave-")
	if err != nil {
		return 0, err
	}
	defer os.Remove(dir)
	return again(dir)
}

// again runs this program in a new mount namespace.
func again(dir string) (int, error) {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Args[0] = os.Args[0]
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), insideVar+"="+dir)
	cmd.SysProcAttr = &unix.SysProcAttr{Unshareflags: unix.CLONE_NEWNS, Pdeathsig: unix.SIGKILL}

	// The kernel takes the end of the starting thread for the parent's death.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGINT, unix.SIGTERM)
	defer signal.Stop(signals)
	if err := cmd.Start(); err != nil {
		return 0, fmt.Errorf("enter mount namespace: %w", err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for {
		select {
		case s := <-signals:
			cmd.Process.Signal(s)
		case err := <-ended:
			if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && exit.Exited() {
				return exit.ExitCode(), nil
			}
			return 0, err
		}
	}
}

// enter makes the enclave. The process has its mount namespace already.
func enter(opts Options, dir string) (*Enclave, error) {
	// Before anything is mounted: nothing may get out.
	if err := unix.Mount("none", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return nil, fmt.Errorf("make mounts private: %w", err)
	}
	data := "mode=0755"
	if opts.Size != "" {
		data += ",size=" + opts.Size
	}
	if err := unix.Mount("kiln-enclave", dir, "tmpfs", 0, data); err != nil {
		return nil, fmt.Errorf("mount tmpfs on %s: %w", dir, err)
	}
	e := &Enclave{Dir: filepath.Join(dir, "work"), Groups: groups(opts, firstID+os.Getpid()%1_000_000*64)}
	if err := os.Mkdir(e.Dir, 0o755); err != nil {
		return nil, err
	}
	if len(e.Groups) > 0 {
		if err := accounts(filepath.Join(dir, "etc"), e.Groups); err != nil {
			return nil, fmt.Errorf("make accounts: %w", err)
		}
	}
	return e, nil
}

// accounts puts a copy of /etc with the groups in it over /etc. It is the whole
// directory because a mount over a single file is gone as soon as somebody
// renames a new file into its place.
func accounts(etc string, groups []Group) error {
	if out, err := exec.Command("cp", "-a", "/etc", etc).CombinedOutput(); err != nil {
		line, _, _ := strings.Cut(string(out), "\n")
		return fmt.Errorf("copy /etc: %w: %s", err, line)
	}
	var passwd, group strings.Builder
	for _, g := range groups {
		var members []string
		for i, uid := range g.UIDs {
			name := user(g.Name, i)
			members = append(members, name)
			fmt.Fprintf(&passwd, "%s:x:%d:%d:build user:/var/empty:/usr/sbin/nologin\n", name, uid, g.GID)
		}
		fmt.Fprintf(&group, "%s:x:%d:%s\n", g.Name, g.GID, strings.Join(members, ","))
	}
	if err := appendTo(filepath.Join(etc, "passwd"), passwd.String()); err != nil {
		return err
	}
	if err := appendTo(filepath.Join(etc, "group"), group.String()); err != nil {
		return err
	}
	if err := unix.Mount(etc, "/etc", "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("mount %s on /etc: %w", etc, err)
	}
	return nil
}

// appendTo adds text to a file that may lack its last newline.
func appendTo(file, text string) error {
	old, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if len(old) > 0 && old[len(old)-1] != '\n' {
		old = append(old, '\n')
	}
	return os.WriteFile(file, append(old, text...), 0o644)
}
