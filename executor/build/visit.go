package build

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/sandbox"
)

// host is a builder that runs, for those who visit it.
type host struct {
	process *sandbox.Process
	spec    *sandbox.Spec
	over    context.Context // ends with the builder
	guests  sync.WaitGroup
}

// hosts are the builders that run, by their derivations.
type hosts struct {
	mu   sync.Mutex
	list map[nix.StorePath][]*host
}

// errHostEnded is why a visit ends that stays longer than the builder.
var errHostEnded = errors.New("the builder has ended")

// open lets guests in until close is called, after the end of the process, which returns
// when there are none any more. It may be called again.
func (hs *hosts) open(drv nix.StorePath, p *sandbox.Process, s *sandbox.Spec) (close func()) {
	over, end := context.WithCancelCause(context.Background())
	h := &host{process: p, spec: s, over: over}
	hs.mu.Lock()
	defer hs.mu.Unlock()
	if hs.list == nil {
		hs.list = make(map[nix.StorePath][]*host)
	}
	hs.list[drv] = append(hs.list[drv], h)
	return sync.OnceFunc(func() {
		hs.mu.Lock()
		left := slices.DeleteFunc(hs.list[drv], func(other *host) bool { return other == h })
		if hs.list[drv] = left; len(left) == 0 {
			delete(hs.list, drv)
		}
		hs.mu.Unlock()
		end(errHostEnded)
		h.guests.Wait()
	})
}

// enter gives the builder of a derivation, which is nobody's guest any more when leave
// was called, as often as you like; nil if none runs.
func (hs *hosts) enter(drv nix.StorePath) (h *host, leave func()) {
	hs.mu.Lock()
	defer hs.mu.Unlock()
	list := hs.list[drv]
	if len(list) == 0 {
		return nil, nil
	}
	h = list[len(list)-1]
	h.guests.Add(1)
	return h, sync.OnceFunc(h.guests.Done)
}

var _ nix.Sandboxes = (*Machine)(nil)

// Visit implements nix.Sandboxes.
func (m *Machine) Visit(ctx context.Context, v *nix.Visit) (nix.VisitEnd, error) {
	if v.Kept != "" {
		return m.visitKept(ctx, v)
	}
	h, leave := m.first().hosts.enter(v.Drv)
	if h == nil {
		return nix.VisitEnd{}, fmt.Errorf("enter the sandbox of '%s': no builder of it runs here: %w", m.Store.Dir().Join(v.Drv), nix.ErrNoSandbox)
	}
	defer leave()
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	defer context.AfterFunc(h.over, func() { stop(errHostEnded) })()
	command := commandIn(h.spec, v.Command)
	end, err := converse(ctx, v, command, h.spec.Users.OutsideUID, func(stdio sandbox.Stdio) (*sandbox.Process, error) {
		return m.Launcher.Enter(ctx, h.process, sandbox.Guest{Path: command[0], Args: words(command), Terminal: v.Terminal != nil}, stdio)
	}, leave)
	if err == nil && end.Signal == int(syscall.SIGKILL) {
		// Guests are killed before it is known that the builder has ended.
		select {
		case <-h.over.Done():
			err = errHostEnded
		case <-time.After(time.Second):
		}
	}
	if errors.Is(err, sandbox.ErrEnded) || errors.Is(err, errHostEnded) {
		err = fmt.Errorf("enter the sandbox of '%s': %w: %w", m.Store.Dir().Join(v.Drv), errHostEnded, nix.ErrNoSandbox)
	}
	return end, err
}

// shells are programs that are of use to a person without arguments.
var shells = []string{"sh", "bash", "dash", "ash", "ksh", "mksh", "zsh"}

// commandIn is what is executed for a command: a shell if it is none, which also finds a
// program that is named without its path. The builder itself is most often one, and is
// there for sure.
func commandIn(s *sandbox.Spec, command []string) []string {
	shell := "/bin/sh"
	if slices.Contains(shells, path.Base(s.Path)) {
		shell = s.Path
	}
	switch {
	case len(command) == 0:
		return []string{shell}
	case strings.Contains(command[0], "/"):
		return command
	}
	return append([]string{shell, "-c", `exec "$@"`, path.Base(shell)}, command...)
}

// words are the arguments of a command: a program's own name has no path.
func words(command []string) []string {
	return append([]string{path.Base(command[0])}, command[1:]...)
}
