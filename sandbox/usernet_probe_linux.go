package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/kilnbuild/kiln/sandbox/launcher"
	"github.com/kilnbuild/kiln/sandbox/program"
	"golang.org/x/sys/unix"
)

// tunDevice is where a stack gets its end of the interface.
const tunDevice = "/dev/net/tun"

// UserNetwork finds a user-mode network stack: the given program, or the first of
// those that are known in PATH if it is "". A *UserNetworkError says why there is
// none: it is for the caller to decide what is had instead. What can only be found
// out by starting the stack is found out by Start, or by TryUserNetwork.
func (l *Launcher) UserNetwork(ctx context.Context, program string) (UserNetwork, error) {
	n, err := findStack(program)
	if err != nil {
		return UserNetwork{}, err
	}
	if err := openTun(); err != nil {
		return UserNetwork{}, err
	}
	var failed *SetupError
	switch err := l.UserNamespaces(ctx); {
	case err == nil, os.Geteuid() == 0:
	case errors.As(err, &failed):
		return UserNetwork{}, &UserNetworkError{Reason: fmt.Sprintf("%s: %v", failed.Stage, failed.Errno), Remedy: failed.Hint}
	default:
		return UserNetwork{}, err
	}
	if !hasRules(unix.AF_INET) || hasIPv6() && !hasRules(unix.AF_INET6) {
		return UserNetwork{}, &UserNetworkError{
			Reason: "this kernel cannot keep programs from link-local addresses",
			Remedy: "it needs policy routing: CONFIG_IP_MULTIPLE_TABLES and CONFIG_IPV6_MULTIPLE_TABLES",
		}
	}
	return n, nil
}

// findStack finds a stack's program and says which it is.
func findStack(program string) (UserNetwork, error) {
	if program != "" {
		stack := stackOf(program)
		switch {
		case !filepath.IsAbs(program):
			return UserNetwork{}, &UserNetworkError{Reason: fmt.Sprintf("'%s' is not an absolute path", program)}
		case stack == "":
			return UserNetwork{}, &UserNetworkError{Reason: fmt.Sprintf("'%s' is neither called pasta nor slirp4netns", program)}
		}
		if _, err := exec.LookPath(program); err != nil {
			return UserNetwork{}, &UserNetworkError{Reason: err.Error()}
		}
		return UserNetwork{Stack: stack, Program: program}, nil
	}
	for _, stack := range []UserStack{Pasta, Slirp4netns} {
		// A relative path in PATH is an error too.
		if path, err := exec.LookPath(string(stack)); err == nil && filepath.IsAbs(path) {
			return UserNetwork{Stack: stack, Program: path}, nil
		}
	}
	return UserNetwork{}, &UserNetworkError{
		Reason: "neither pasta nor slirp4netns is in PATH",
		Remedy: "install the package passt, which has pasta, or slirp4netns",
	}
}

// stackOf tells by a program's name which stack it is, "" for none.
func stackOf(program string) UserStack {
	name := filepath.Base(program)
	for _, stack := range []UserStack{Pasta, Slirp4netns} {
		if strings.HasPrefix(name, string(stack)) {
			return stack
		}
	}
	return ""
}

// openTun says why the device of interfaces that programs serve cannot be opened.
func openTun() error {
	f, err := os.OpenFile(tunDevice, os.O_RDWR, 0)
	switch {
	case err == nil:
		return f.Close()
	case errors.Is(err, os.ErrPermission):
		return &UserNetworkError{Reason: err.Error(), Remedy: "let everybody open it, by `chmod 0666 " + tunDevice + "`"}
	case errors.Is(err, os.ErrNotExist), errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		return &UserNetworkError{Reason: err.Error(), Remedy: "load the kernel's module, by `modprobe tun`; a container needs --device " + tunDevice}
	}
	return &UserNetworkError{Reason: err.Error()}
}

// anyoneMayOpen tells whether a device is open to all users.
func anyoneMayOpen(device string) bool {
	var st unix.Stat_t
	return unix.Stat(device, &st) == nil && st.Mode&0o006 == 0o006
}

// TryUserNetwork starts a stack for a program that does nothing, run by a user like
// those whom it would serve. A *UserNetworkError says why that does not work. It
// takes some tens of milliseconds.
func (l *Launcher) TryUserNetwork(ctx context.Context, n UserNetwork) error {
	const nobody = 65534
	users := Users{Namespace: true, InsideUID: 1000, InsideGID: 100, OutsideUID: os.Geteuid(), OutsideGID: os.Getegid()}
	if os.Geteuid() == 0 {
		users.OutsideUID, users.OutsideGID = nobody, nobody
	}
	if l.UserNamespaces(ctx) != nil {
		users.Namespace = false
	}
	s := &Spec{Name: "probe", Isolation: Full, Network: NetworkUser, UserNetwork: n, Users: users}
	c := &compiler{s: s, f: hostFacts(), p: &program.Program{}}
	c.p.Begin()
	c.handOver()
	c.network()
	c.awaitNetwork()
	c.keepOut(n)
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	proc, err := l.launchNetworked(ctx, s.Name, n, users, c.p, launcher.Request{
		CloneFlags: unix.CLONE_NEWNET | s.cloneFlags()&unix.CLONE_NEWUSER, MapIDs: choose(users.Namespace, uint64(1), 0),
		UIDMap: [3]uint64{1000, uint64(users.OutsideUID), 1}, GIDMap: [3]uint64{100, uint64(users.OutsideGID), 1},
	}, []*os.File{null, null, null})
	if err == nil {
		_, err = proc.Wait(context.WithoutCancel(ctx))
	}
	var setup *SetupError
	var network *UserNetworkError
	switch {
	case errors.As(err, &network):
		return network
	case errors.As(err, &setup):
		return &UserNetworkError{Reason: fmt.Sprintf("%s: %v", setup.Stage, setup.Errno), Remedy: setup.Hint}
	}
	return err
}
