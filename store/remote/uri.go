package remote

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"time"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/conf"
)

// Unix gives a Dial for the socket of a daemon on this machine. It waits while more
// clients want to connect than the daemon lets wait, which are five with Nix's.
func Unix(socket string) func(context.Context) (io.ReadWriteCloser, error) {
	return func(ctx context.Context) (io.ReadWriteCloser, error) {
		const longest = 200 * time.Millisecond
		var d net.Dialer
		for wait := time.Millisecond; ; wait = min(2*wait, longest) {
			conn, err := d.DialContext(ctx, "unix", socket)
			switch {
			case err == nil:
				return conn, nil
			case !errors.Is(err, errTryAgain):
				return nil, fmt.Errorf("%w (is the daemon running?)", err)
			}
			select {
			case <-time.After(wait):
			case <-ctx.Done():
				return nil, context.Cause(ctx)
			}
		}
	}
}

// FromURI gives the Options for a store URI of the schemes unix and ssh-ng. socket
// is where the daemon of this machine listens, if the URI does not say it. nixSSH
// are further words for ssh, as NIX_SSHOPTS has them; errs takes what ssh says, and
// may be nil.
func FromURI(u conf.StoreURI, socket string, nixSSH []string, errs io.Writer) (Options, error) {
	named := u
	named.Params = nil
	o := Options{Name: named.Redacted(), MaxConnections: DefaultConnections}
	var err error
	if o.Dir, err = nix.ParseStoreDir(param(u, "store", string(nix.DefaultStoreDir))); err != nil {
		return Options{}, err
	}
	switch u.Scheme {
	case conf.SchemeDaemon:
		if u.Path != "" {
			socket = u.Path
		}
		o.Dial = Unix(socket)
		o.SameMachine = true
	case conf.SchemeSSHNG:
		// Each is a process and a handshake of its own.
		o.MaxConnections = 1
		o.Dial = sshFromURI(u, nixSSH, errs, "nix-daemon", "--stdio")
	default:
		return Options{}, fmt.Errorf("store '%s' is not behind a daemon", u.Redacted())
	}
	if n, err := strconv.Atoi(u.Params.Get("max-connections")); err == nil && n > 0 {
		o.MaxConnections = n
	}
	if n, err := strconv.Atoi(u.Params.Get("max-connection-age")); err == nil && n > 0 && n < 1<<31 {
		o.MaxConnectionAge = time.Duration(n) * time.Second
	}
	return o, nil
}

func param(u conf.StoreURI, name, otherwise string) string {
	if v := u.Params.Get(name); v != "" {
		return v
	}
	return otherwise
}

// sshFromURI gives a Dial that starts a program by ssh: the one that the URI names, or
// that of the given name, with the given words.
func sshFromURI(u conf.StoreURI, nixSSH []string, errs io.Writer, program string, args ...string) func(context.Context) (io.ReadWriteCloser, error) {
	if store := u.Params.Get("remote-store"); store != "" {
		args = append(args, "--store", store)
	}
	return SSH(SSHOptions{
		Authority:     u.Authority,
		Key:           u.Params.Get("ssh-key"),
		HostKey:       u.Params.Get("base64-ssh-public-host-key"),
		Compress:      u.Bool("compress", false),
		Options:       nixSSH,
		RemoteProgram: strings.Fields(param(u, "remote-program", program)),
		RemoteArgs:    args,
		Errors:        errs,
	})
}

// LegacyFromURI gives the LegacyOptions for a store URI of the scheme ssh; see FromURI.
func LegacyFromURI(u conf.StoreURI, nixSSH []string, errs io.Writer) (LegacyOptions, error) {
	if u.Scheme != conf.SchemeSSH {
		return LegacyOptions{}, fmt.Errorf("store '%s' is not of the scheme ssh", u.Redacted())
	}
	named := u
	named.Params = nil
	o := LegacyOptions{
		Name: named.Redacted(), MaxConnections: 1, // each is a process
		Dial: sshFromURI(u, nixSSH, errs, "nix-store", "--serve", "--write"),
	}
	if n, err := strconv.Atoi(u.Params.Get("max-connections")); err == nil && n > 0 {
		o.MaxConnections = n
	}
	var err error
	o.Dir, err = nix.ParseStoreDir(param(u, "store", string(nix.DefaultStoreDir)))
	return o, err
}
