package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"
)

// crowdArg makes this program the parent of many processes that map files.
const crowdArg = "crowd-child"

// manyProcesses starts n processes that map files, and gives what ends them.
func manyProcesses(n int, files []string) (end func(), err error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(self, append([]string{crowdArg, strconv.Itoa(n)}, files...)...)
	cmd.Stderr = os.Stderr
	cmd.Env = []string{"GOMAXPROCS=1"}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	end = func() {
		stdin.Close()
		cmd.Wait()
	}
	if line, err := bufio.NewReader(stdout).ReadString('\n'); err != nil {
		end()
		return nil, fmt.Errorf("start %d processes: %w: %s", n, err, line)
	}
	return end, nil
}

// crowd maps files, makes processes that have the same mappings and do nothing, and
// ends them when its standard input ends.
func crowd(args []string) error {
	n, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	for _, name := range args[1:] {
		f, err := os.Open(name)
		if err != nil {
			return err
		}
		if _, err := unix.Mmap(int(f.Fd()), 0, 1, unix.PROT_READ, unix.MAP_PRIVATE); err != nil {
			return err
		}
		f.Close()
	}
	runtime.LockOSThread()
	var pids []int
	defer func() {
		for _, pid := range pids {
			unix.Kill(pid, unix.SIGKILL)
		}
		for range pids {
			unix.Wait4(-1, nil, 0, nil)
		}
	}()
	for range n {
		pid, errno := forkIdle()
		if errno != 0 {
			return errors.Join(errors.New("fork"), errno)
		}
		pids = append(pids, pid)
	}
	fmt.Println("ready")
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// forkIdle makes a process that shares nothing but what it was made with, and waits
// to be killed, with its parent at the latest. It must not do anything that needs the
// runtime.
//
//go:norace
func forkIdle() (pid int, errno unix.Errno) {
	r, _, errno := unix.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	if r != 0 || errno != 0 {
		return int(r), errno
	}
	unix.RawSyscall(unix.SYS_PRCTL, unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0)
	for {
		unix.RawSyscall6(unix.SYS_PPOLL, 0, 0, 0, 0, 0, 0)
	}
}
