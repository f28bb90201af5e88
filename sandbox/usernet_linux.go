package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/kilnbuild/kiln/sandbox/launcher"
	"github.com/kilnbuild/kiln/sandbox/program"
	"golang.org/x/sys/unix"
)

// wayOut is a stack that serves a program. It is killed when that one ends, and that
// one when it ends: a program that has lost its network would wait for answers for
// long.
type wayOut struct {
	network UserNetwork
	stack   *Process
	ready   *os.File      // has something to be read when the stack is ready
	says    *os.File      // what the stack says, for messages
	over    chan struct{} // closed when the program has ended and the stack is killed
	lost    error         // that the stack ended first; good when over is closed
}

// launchNetworked is launch for a program that waits for a user-mode network,
// which is started beside it. users are those of the program.
func (l *Launcher) launchNetworked(ctx context.Context, name string, n UserNetwork, users Users, p *program.Program, request launcher.Request, descriptors []*os.File) (*Process, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("start '%s': %w", name, err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "network"), os.NewFile(uintptr(fds[1]), "network")
	defer ours.Close()
	caller := ctx
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	line, err := ours.SyscallConn()
	if err != nil {
		theirs.Close()
		return nil, fmt.Errorf("start '%s': %w", name, err)
	}
	hangUp := func() { line.Control(func(fd uintptr) { unix.Shutdown(int(fd), unix.SHUT_RDWR) }) }
	defer context.AfterFunc(ctx, hangUp)()

	var w *wayOut
	joined := make(chan error, 1)
	go func() {
		var err error
		if w, err = l.join(ctx, name, n, users, ours); err != nil {
			hangUp() // the program need not wait
		}
		joined <- err
	}()
	proc, err := l.launch(ctx, name, p, request, slices.Insert(slices.Clone(descriptors), fdNetwork, theirs))
	if err != nil {
		cancel(err) // before what is to be joined is missed
	}
	theirs.Close()
	switch nerr := <-joined; {
	case err == nil:
		// It has waited until there was a network.
		proc.network = w
		go w.watch(proc)
		return proc, nil
	case w != nil:
		if caller.Err() != nil {
			err = context.Cause(caller) // it was hung up on
		}
		return nil, errors.Join(err, w.discard())
	case nerr != nil && !errors.Is(nerr, err):
		// That the program waited in vain is the consequence.
		return nil, fmt.Errorf("start '%s': %w", name, nerr)
	}
	return nil, err
}

// join waits for the namespaces of a program, starts a stack for them, and lets
// the program go on.
func (l *Launcher) join(ctx context.Context, name string, n UserNetwork, users Users, sock *os.File) (*wayOut, error) {
	namespaces, err := receiveNamespaces(int(sock.Fd()))
	if err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return nil, err
	}
	defer closeFiles(namespaces)
	w, err := l.startStack(ctx, name, n, users, namespaces)
	if err != nil {
		return nil, err
	}
	// If it is gone it has said why, but not here.
	unix.Write(int(sock.Fd()), []byte{1})
	return w, nil
}

// receiveNamespaces receives the network and the user namespace.
func receiveNamespaces(sock int) ([]*os.File, error) {
	oob := make([]byte, unix.CmsgSpace(2*4))
	for {
		_, n, _, _, err := unix.Recvmsg(sock, nil, oob, unix.MSG_CMSG_CLOEXEC)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("receive the network namespace: %w", err)
		}
		files := receivedFiles(oob[:n])
		if len(files) != 2 {
			closeFiles(files)
			return nil, errors.New("receive the network namespace: it did not come")
		}
		return files, nil
	}
}

// startStack starts a stack and waits until it is ready.
func (l *Launcher) startStack(ctx context.Context, name string, n UserNetwork, users Users, namespaces []*os.File) (_ *wayOut, err error) {
	ready, readyEnd, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	says, saysEnd, err := os.Pipe()
	if err != nil {
		closeFiles([]*os.File{ready, readyEnd})
		return nil, err
	}
	facts := hostFacts()
	join := users.Namespace && (!facts.Privileged || anyoneMayOpen(tunDevice))
	descriptors := []*os.File{namespaces[0], readyEnd, saysEnd}
	if join {
		descriptors = append(descriptors, namespaces[1])
		// It opens its own output by name, which only a pipe's owner may do.
		if facts.Privileged {
			err = readyEnd.Chown(users.OutsideUID, users.OutsideGID)
		}
	}
	if err != nil {
		closeFiles([]*os.File{ready, readyEnd, says, saysEnd})
		return nil, err
	}
	// In its group may be what it started to get itself ready.
	stack, err := l.launch(ctx, fmt.Sprintf("%s of %s", n.Stack, name), compileStack(n, users, join, facts), launcher.Request{KillGroup: 1}, descriptors)
	readyEnd.Close()
	saysEnd.Close()
	if err != nil {
		closeFiles([]*os.File{ready, says})
		return nil, stackError(n, err)
	}
	w := &wayOut{network: n, stack: stack, ready: ready, says: says, over: make(chan struct{})}
	if err := w.await(ctx); err != nil {
		return nil, errors.Join(err, w.discard())
	}
	return w, nil
}

// stackError is the error of a stack that could not even be executed.
func stackError(n UserNetwork, err error) error {
	var exec *ExecError
	var setup *SetupError
	switch {
	case errors.As(err, &exec):
		return &UserNetworkError{Reason: exec.Error(), Remedy: "set `user-network-program` to a program that can be"}
	case errors.As(err, &setup):
		return &UserNetworkError{Reason: fmt.Sprintf("start %s: %s: %v", n.Stack, setup.Stage, setup.Errno), Remedy: setup.Hint}
	}
	return err
}

// await waits until the stack says that it is ready.
func (w *wayOut) await(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, &UserNetworkError{Reason: fmt.Sprintf("%s did not become ready in %v", w.network.Program, patience)})
	defer cancel()
	isReady := make(chan struct{})
	var read sync.WaitGroup
	read.Go(func() {
		// The other end is closed when it ends, perhaps by somebody else a little later.
		if n, _ := w.ready.Read(make([]byte, 1)); n > 0 {
			close(isReady)
		}
	})
	defer read.Wait()
	defer w.ready.SetReadDeadline(time.Now())
	select {
	case <-isReady:
		return nil
	case <-w.stack.exited:
		return w.ended()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// ended is the error of a stack that has ended.
func (w *wayOut) ended() error {
	if w.stack.err != nil {
		return w.stack.err
	}
	reason := fmt.Sprintf("%s ended with %v", w.network.Program, w.stack.exit)
	if text := w.words(); text != "" {
		reason += ": " + text
	}
	return &UserNetworkError{Reason: reason, Remedy: w.network.remedy(reason)}
}

// remedy knows what people have met.
func (n UserNetwork) remedy(reason string) string {
	if n.Stack == Pasta && strings.Contains(reason, "xternal") && strings.Contains(reason, "interface") {
		return "pasta needs a default route on this machine"
	}
	return ""
}

// words is the end of what the stack has said, in one line.
func (w *wayOut) words() string {
	const (
		enough = 3        // lines
		most   = 64 << 10 // bytes, as much as is in a pipe
	)
	// What it wrote is there. Somebody may have the other end open for a moment.
	w.says.SetReadDeadline(time.Now().Add(time.Second))
	text, _ := io.ReadAll(io.LimitReader(w.says, most))
	lines := strings.FieldsFunc(string(text), func(r rune) bool { return r < ' ' })
	lines = slices.DeleteFunc(lines, func(line string) bool { return strings.HasSuffix(line, " to syslog") }) // it would say it there too
	return strings.Join(lines[max(0, len(lines)-enough):], "; ")
}

// watch ends the stack with the program p, or p with the stack.
func (w *wayOut) watch(p *Process) {
	select {
	case <-p.exited:
		w.stack.Kill()
		close(w.over)
		// It does nothing any more, but the kernel takes long over its interface.
		<-w.stack.exited
	case <-w.stack.exited:
		p.Kill()
		<-p.exited
		if p.err == nil && p.exit.Signal == unix.SIGKILL {
			w.lost = fmt.Errorf("'%s' lost its network and was killed: %w", p.name, w.ended())
		}
		close(w.over)
	}
	closeFiles([]*os.File{w.ready, w.says})
}

// discard ends a stack that serves nobody.
func (w *wayOut) discard() error {
	err := w.stack.discard()
	closeFiles([]*os.File{w.ready, w.says})
	return err
}
