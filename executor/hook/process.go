package hook

import (
	"errors"
	"fmt"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
)

// A process is a program that leads a session of its own: a signal to its group
// reaches everything that it started, unless that made a session of its own.
//
// Whoever started it has to call end.
type process struct {
	program string
	pid     int
	exited  chan struct{} // closed when the program itself has ended
	release chan bool     // takes whether to kill what is left of the group
	gone    chan struct{} // closed when the program was waited for
	exit    *ExitError    // how it ended, nil for exit code 0; to be read after gone

	mu   sync.Mutex
	over bool // the id may be somebody else's
}

// start starts cmd, the program of the setting name, as somebody else unless that
// is nil.
//
// One thread belongs to the program until its end: Linux takes the death of the
// thread that started it for that of its parent.
func start(name string, cmd *exec.Cmd, as *syscall.Credential) (*process, error) {
	cmd.SysProcAttr = attributes()
	cmd.SysProcAttr.Credential = as
	p := &process{
		program: cmd.Path,
		exited:  make(chan struct{}),
		release: make(chan bool, 1),
		gone:    make(chan struct{}),
	}
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		if err := cmd.Start(); err != nil {
			started <- err
			return
		}
		p.pid = cmd.Process.Pid
		started <- nil
		p.watch(cmd)
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("run the %s '%s': %w", name, cmd.Path, bare(err))
	}
	return p, nil
}

// bare takes from an error of os/exec what its caller says better.
func bare(err error) error {
	var lookup *exec.Error
	var errno syscall.Errno
	switch {
	case errors.As(err, &lookup):
		return lookup.Err
	case errors.As(err, &errno):
		return errno
	}
	return err
}

func (p *process) watch(cmd *exec.Cmd) {
	defer close(p.gone)
	awaitExit(cmd)
	close(p.exited)
	if <-p.release {
		p.signal(syscall.SIGKILL)
	}
	p.mu.Lock()
	p.over = true
	p.mu.Unlock()
	// How it ended is in the state, whatever the error says.
	_ = cmd.Wait()
	p.exit = exitError(p.program, cmd.ProcessState)
}

// signal sends a signal to the program and its group. It does nothing once end
// has returned.
func (p *process) signal(sig syscall.Signal) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.over {
		// A group that is empty, or belongs to somebody else by now, needs no signal.
		_ = syscall.Kill(-p.pid, sig)
	}
}

// end waits for the end of the program, kills what is left of its group if it is
// told to, and says how the program ended. It may be called once.
func (p *process) end(killRest bool) error {
	p.release <- killRest
	<-p.gone
	if p.exit == nil {
		return nil
	}
	return p.exit
}
