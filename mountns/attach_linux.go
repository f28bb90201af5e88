package mountns

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"
	"sync"

	"github.com/kilnbuild/kiln/sandbox/program"
)

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
	helper *helper // nil before the first attachment
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
	if n.helper != nil {
		n.helper.socket.Close() // it ends then; the runner knows when
	}
	return err
}

// Attach makes paths of the machine visible in the running sandbox, read-only.
// They are there when it returns, all of them or, after an error, none that was not
// before. The error wraps ErrAttached when there was something in the place already.
//
// The live directory may be the builder's own. Nothing in it is followed: it is
// opened without symlinks, and everything is put into it by descriptor and by
// one name.
func (n *Namespace) Attach(ctx context.Context, attachments ...Attachment) error {
	for _, a := range attachments {
		if a.Name == "" || a.Name == "." || a.Name == ".." || strings.Contains(a.Name, "/") || !path.IsAbs(a.Source) {
			return fmt.Errorf("attach '%s' as '%s': it needs an absolute path and a plain name", a.Source, a.Name)
		}
	}
	if len(attachments) == 0 {
		return nil
	}
	h, err := n.theHelper()
	if err != nil {
		return fmt.Errorf("attach to sandbox: %w", err)
	}
	attached := 0
	for some := range slices.Chunk(attachments, maxBatch) {
		if err = context.Cause(ctx); err != nil {
			break
		}
		done := 0
		done, err = h.ask(batch{Live: n.live, Attachments: some})
		attached += done
		if err != nil {
			break
		}
	}
	if err == nil {
		return nil
	}
	for some := range slices.Chunk(attachments[:attached], maxBatch) {
		if _, derr := h.ask(batch{Live: n.live, Attachments: some, Detach: true}); derr != nil {
			err = errors.Join(err, derr)
		}
	}
	return err
}

// theHelper starts the helper when it is needed first.
func (n *Namespace) theHelper() (_ *helper, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return nil, errors.New("it has ended")
	}
	if n.helper == nil {
		n.helper, err = n.startHelper()
	}
	return n.helper, err
}
