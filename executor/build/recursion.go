package build

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/kilnbuild/kiln/mountns"
	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/recursive"
	"github.com/kilnbuild/kiln/sandbox"
)

// socketName is the socket in the build directory at which a builder calls Nix.
const socketName = ".nix-socket"

// recursion is what a builder has that may call Nix.
type recursion struct {
	run      *run
	listener *net.UnixListener
	server   *recursive.Server

	namespace *mountns.Namespace
}

// openRecursion makes the socket. What connects to it waits until serve is called.
func (r *run) openRecursion() error {
	if !r.attempt.Recursive() {
		return nil
	}
	if r.attempt.Nested == nil {
		return fmt.Errorf("build '%s': nobody builds for its builder", r.attempt.DrvPath)
	}
	listener, err := listenIn(r.work.inner, r.user)
	if err != nil {
		return fmt.Errorf("make the socket for recursive Nix: %w", err)
	}
	r.recursion = &recursion{run: r, listener: listener}
	return nil
}

// listenIn makes the socket in a builder's directory, which nobody has been in yet.
// The name of the directory may be longer than that of a socket can be.
func listenIn(dir string, user *User) (*net.UnixListener, error) {
	fd, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer fd.Close()
	address := filepath.Join(dir, socketName)
	if len(address) > maxSocketAddress {
		address = path.Join("/proc/self/fd", strconv.Itoa(int(fd.Fd())), socketName)
	}
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: address, Net: "unix"})
	if err != nil {
		return nil, err
	}
	listener.SetUnlinkOnClose(false) // it goes with the directory, whose owner may have put something else there
	err = unix.Fchmodat(int(fd.Fd()), socketName, 0o600, 0)
	if err == nil && !user.Own {
		err = unix.Fchownat(int(fd.Fd()), socketName, user.UID, user.GID, unix.AT_SYMLINK_NOFOLLOW)
	}
	if err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	return listener, nil
}

// maxSocketAddress is the longest address of a socket, in bytes, on all systems.
const maxSocketAddress = 103

// serve begins to answer the builder that runs, in a sandbox with a namespace for
// what comes to it. stop ends the build.
func (c *recursion) serve(ctx context.Context, log *sharedLog, n *mountns.Namespace, stop context.CancelCauseFunc) {
	a, m := c.run.attempt, c.run.machine
	c.namespace = n
	c.server = recursive.Serve(ctx, c.listener, recursive.Config{
		Dir: m.Store.Dir(), Store: m.Store, Drv: a.DrvPath, Inputs: slices.Collect(maps.Keys(a.Closure)),
		Builder: a.Nested, Log: &nestedLog{LogSink: a.Log, drv: a.DrvPath, log: log, lines: make(map[nix.StorePath][]byte)}, Network: c.run.settings.NestedNetwork, Show: c.show,
		Fail: func(err error) {
			stop(nix.BuildErrorf(nix.StatusMiscFailure, "building derivation '%s' was ended: %v", m.Store.Dir().Join(a.DrvPath), err))
		},
	})
}

// show makes store objects visible in the running sandbox. Without one they are.
func (c *recursion) show(ctx context.Context, paths []nix.StorePath) error {
	if c.run.isolation != sandbox.Full {
		return nil
	}
	attachments := make([]mountns.Attachment, 0, len(paths))
	for _, p := range paths {
		if slices.Contains(c.run.alsoVisible, p) {
			continue
		}
		attachments = append(attachments, mountns.Attachment{Source: c.run.machine.Store.RealPath(p), Name: string(p)})
	}
	if err := c.namespace.Attach(ctx, attachments...); err != nil {
		return c.notShown(err, paths)
	}
	return nil
}

// notShown is an error for the builder, who must not learn where the store is on the
// machine. Whoever watches the build is told everything.
func (c *recursion) notShown(err error, paths []nix.StorePath) error {
	drv, dir := c.run.attempt.DrvPath, c.run.machine.Store.Dir()
	c.run.attempt.Log.Event(nix.Event{Kind: nix.EventDiagnostic, Path: drv, Message: fmt.Sprintf("recursive Nix: %v", err)})
	what := fmt.Sprintf("store path '%s'", dir.Join(paths[0]))
	if len(paths) > 1 {
		what = fmt.Sprintf("store path '%s', or one of %d that come with it,", dir.Join(paths[0]), len(paths)-1)
	}
	if errors.Is(err, mountns.ErrAttached) {
		return fmt.Errorf("%s %w", what, mountns.ErrAttached)
	}
	return fmt.Errorf("%s cannot be attached", what)
}

// close ends every connection, and what is being built for one.
func (c *recursion) close() {
	c.listener.Close()
	c.server.Close()
}

// endRecursion closes what a builder that has ended had, and says what was built for
// it.
func (r *run) endRecursion(result *Result) {
	if r.recursion == nil {
		return
	}
	r.recursion.listener.Close()
	if r.recursion.server != nil {
		result.Nested = r.recursion.server.Builds()
	}
}

// addedInputs are the store objects that came to the inputs while the builder ran.
func (r *run) addedInputs() []nix.StorePath {
	if r.recursion == nil || r.recursion.server == nil {
		return nil
	}
	return r.recursion.server.Added()
}
