package mountns

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path"
	"strings"
	"sync"

	"github.com/kilnbuild/kiln/sandbox/program"
	"golang.org/x/sys/unix"
)

var (
	callSetns     = program.Call{Name: "setns", Number: unix.SYS_SETNS}
	callOpenat2   = program.Call{Name: "openat2", Number: unix.SYS_OPENAT2}
	callMkdirat   = program.Call{Name: "mkdirat", Number: unix.SYS_MKDIRAT}
	callMknodat   = program.Call{Name: "mknodat", Number: unix.SYS_MKNODAT}
	callSymlinkat = program.Call{Name: "symlinkat", Number: unix.SYS_SYMLINKAT}
)

// ErrAttached says that something is in the place of an attachment already.
var ErrAttached = errors.New("already exists in the sandbox")

// A Runner carries out a program in a process of its own that has one thread,
// with the given descriptors, and waits for its end. Errors of a call in the
// program wrap its errno.
type Runner interface {
	Run(ctx context.Context, p *program.Program, descriptors ...*os.File) error
}

// Attachment is something of the machine that shall appear in a running sandbox.
type Attachment struct {
	Source string // an absolute path on the machine; a symlink is made again, not followed
	Name   string // what it is called in the live directory: one component of a path
}

// Namespace is the sibling of a running sandbox's mount namespace. It is safe
// for concurrent use, and is closed by whoever has it.
type Namespace struct {
	runner Runner
	live   string // the live directory, on the machine

	mount *os.File
	user  *os.File // nil when the sandbox has no user namespace of its own

	mu     sync.Mutex
	closed bool
}

// NewNamespace takes the descriptors of a sibling namespace and, unless it is
// nil, of the user namespace that owns it. live is the live directory as the
// machine sees it.
func NewNamespace(runner Runner, live string, mount, user *os.File) *Namespace {
	return &Namespace{runner: runner, live: live, mount: mount, user: user}
}

// Close lets go of the namespace. Sandboxes are not affected.
func (n *Namespace) Close() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return nil
	}
	n.closed = true
	err := n.mount.Close()
	if n.user != nil {
		err = errors.Join(err, n.user.Close())
	}
	return err
}

// Attach makes paths of the machine visible in the running sandbox, read-only.
// They are there when it returns, all of them or, after an error, those up to
// the one that the error names. The error wraps ErrAttached when there was
// something in the place already.
//
// The live directory may be the builder's own. Nothing in it is followed: it is
// opened without symlinks, and everything is put into it by descriptor and by
// one name.
func (n *Namespace) Attach(ctx context.Context, attachments ...Attachment) error {
	if len(attachments) == 0 {
		return nil
	}
	p, err := attachProgram(n.live, n.user != nil, attachments)
	if err != nil {
		return err
	}
	// With descriptors of its own an attachment is not in the way of Close.
	descriptors, err := n.duplicate()
	if err != nil {
		return fmt.Errorf("attach to sandbox: %w", err)
	}
	defer func() {
		for _, f := range descriptors {
			f.Close()
		}
	}()
	err = n.runner.Run(ctx, p, descriptors...)
	if errors.Is(err, unix.EEXIST) {
		err = fmt.Errorf("%w: %w", ErrAttached, err)
	}
	return err
}

func (n *Namespace) duplicate() ([]*os.File, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return nil, errors.New("it has ended")
	}
	var files []*os.File
	for _, f := range []*os.File{n.mount, n.user} {
		if f == nil {
			continue
		}
		fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return files, err
		}
		files = append(files, os.NewFile(uintptr(fd), f.Name()))
	}
	return files, nil
}

// attachProgram is what Attach does. Descriptor 0 is the mount namespace,
// descriptor 1 the user namespace.
func attachProgram(live string, user bool, attachments []Attachment) (*program.Program, error) {
	p := &program.Program{}
	p.Begin()
	if user {
		p.Add("enter the sandbox's user namespace", callSetns, program.Descriptor(1), program.Named(uint(unix.CLONE_NEWUSER), "CLONE_NEWUSER"))
	}
	p.Add("enter the sibling mount namespace", callSetns, program.Descriptor(0), program.Named(uint(unix.CLONE_NEWNS), "CLONE_NEWNS"))
	how := make([]byte, unix.SizeofOpenHow)
	binary.NativeEndian.PutUint64(how, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC)
	binary.NativeEndian.PutUint64(how[16:], unix.RESOLVE_NO_SYMLINKS)
	dir, _ := p.Add("open "+live, callOpenat2, program.Here, program.String(live),
		program.Bytes(how, "{O_PATH|O_DIRECTORY|O_CLOEXEC, resolve=RESOLVE_NO_SYMLINKS}"), program.Number(len(how)))
	for _, a := range attachments {
		if err := a.compile(p, dir); err != nil {
			return nil, err
		}
	}
	return p, nil
}

func (a Attachment) compile(p *program.Program, dir program.Ref) error {
	if a.Name == "" || a.Name == "." || a.Name == ".." || strings.Contains(a.Name, "/") || !path.IsAbs(a.Source) {
		return fmt.Errorf("attach '%s' as '%s': it needs an absolute path and a plain name", a.Source, a.Name)
	}
	st, err := os.Lstat(a.Source)
	if err != nil {
		return fmt.Errorf("attach '%s': %w", a.Source, err)
	}
	what := "attach " + a.Source
	name := program.String(a.Name)
	switch {
	case st.Mode()&os.ModeSymlink != 0:
		target, err := os.Readlink(a.Source)
		if err != nil {
			return fmt.Errorf("attach '%s': %w", a.Source, err)
		}
		p.Add(what, callSymlinkat, program.String(target), program.Result(dir), name)
		return nil
	case st.IsDir():
		p.Add(what, callMkdirat, program.Result(dir), name, program.Named(uint(0o755), "0755"))
	default:
		p.Add(what, callMknodat, program.Result(dir), name, program.Named(uint(unix.S_IFREG|0o444), "S_IFREG|0444"), program.Number(0))
	}
	m := Mount{Kind: Bind, Source: a.Source}
	tree, _ := p.Add(what, callOpenTree, program.Here, program.String(a.Source), openTreeFlags(false))
	m.restrict(p, what, tree)
	p.Add(what, callMoveMount, program.Result(tree), program.String(""), program.Result(dir), name,
		program.Named(uint(unix.MOVE_MOUNT_F_EMPTY_PATH), "MOVE_MOUNT_F_EMPTY_PATH"))
	p.Add("", callClose, program.Result(tree))
	return nil
}
