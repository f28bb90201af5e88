package build

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"net/url"
	"os"
	"slices"
	"strings"

	"github.com/kilnbuild/kiln/internal/rmtree"
	"github.com/kilnbuild/kiln/mountns"
	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/sandbox"
)

// UserNetworkMode says whether sandboxed builders that have a network get it
// through a user-mode network stack.
type UserNetworkMode uint8

// The values of the setting `user-network`.
const (
	UserNetworkAuto    UserNetworkMode = iota // auto: where that can be had
	UserNetworkRequire                        // require
	UserNetworkOff                            // off: they have the machine's
)

// UserNetworkSettings are the settings about it.
type UserNetworkSettings struct {
	Mode    UserNetworkMode
	Program string // file of pasta or slirp4netns; "" looks for it in PATH
}

const resolvConf = "/etc/resolv.conf"

// separateNetwork gives a builder that has the machine's network one of its own
// with a user-mode network stack, if it is wanted and can be had.
func (r *run) separateNetwork(ctx context.Context) error {
	spec, s := r.spec, r.settings.UserNetwork
	if spec.Isolation != sandbox.Full || spec.Network != sandbox.NetworkHost || s.Mode == UserNetworkOff {
		return nil
	}
	n, err := r.userNetwork(ctx)
	if err != nil {
		return r.withoutNetwork(err)
	}
	text, err := readResolvConf()
	if err != nil {
		return err
	}
	r.hostSpec = spec
	r.spec = useNetwork(spec, n, text)
	return nil
}

// withoutNetwork decides what comes of it that there is no stack.
func (r *run) withoutNetwork(err error) error {
	var none *sandbox.UserNetworkError
	switch {
	case !errors.As(err, &none):
		return err
	case r.settings.UserNetwork.Mode == UserNetworkRequire:
		return fmt.Errorf("cannot build '%s' as `user-network = require` wants it: %w", r.attempt.DrvPath, err)
	}
	r.spec.NetworkFallback = err.Error()
	return nil
}

// start starts the builder. Whether a stack works shows only now; if it does not,
// and that is no error, the builder starts with the machine's network.
func (r *run) start(ctx context.Context, stdio sandbox.Stdio) (*sandbox.Process, error) {
	if err := r.isolatedEnough(); err != nil {
		return nil, err
	}
	p, err := r.machine.Launcher.Start(ctx, r.spec, stdio)
	var none *sandbox.UserNetworkError
	if !errors.As(err, &none) {
		return p, err
	}
	r.spec = r.hostSpec
	if err := r.withoutNetwork(none); err != nil {
		return nil, err
	}
	// No builder has been in there.
	if err := rmtree.RemoveTree(r.spec.Root); err != nil {
		return nil, err
	}
	if err := r.isolatedEnough(); err != nil {
		return nil, err
	}
	return r.machine.Launcher.Start(ctx, r.spec, stdio)
}

// isolatedEnough refuses a sandbox that is less than who asked wants.
func (r *run) isolatedEnough() error {
	order := []string{"", "none", "partial", "full"}
	level, wanted := r.spec.Level(), r.attempt.MinIsolation
	if slices.Index(order, level) >= slices.Index(order, wanted) {
		return nil
	}
	return nix.BuildErrorf(nix.StatusInputRejected, "cannot build '%s': isolation '%s' is asked for, and its builder would have '%s' here; `kiln doctor` says what this machine lacks",
		r.machine.Store.Dir().Join(r.attempt.DrvPath), wanted, level).Because(nix.Failure{Kind: nix.FailureNotHere})
}

// userNetwork finds a stack, as far as can be told without starting it. A *sandbox.UserNetworkError says why there is none.
func (r *run) userNetwork(ctx context.Context) (sandbox.UserNetwork, error) {
	s := r.settings.UserNetwork
	if s.Mode == UserNetworkAuto {
		needs := proxies(r.spec.Env)
		if r.attempt.Drv.IsBuiltin() {
			needs = r.settings.Fetch.needs()
		}
		if i := slices.IndexFunc(needs, onLoopback); i >= 0 {
			return sandbox.UserNetwork{}, &sandbox.UserNetworkError{
				Reason: fmt.Sprintf("the builder uses '%s', which is on the machine's loopback interface", withoutPassword(needs[i])),
			}
		}
	}
	return r.machine.Launcher.UserNetwork(ctx, s.Program)
}

// useNetwork gives a copy of a builder's description in which a stack is its
// network. resolv is the text of the machine's resolv.conf.
func useNetwork(host *sandbox.Spec, n sandbox.UserNetwork, resolv string) *sandbox.Spec {
	spec := *host
	spec.Network, spec.UserNetwork = sandbox.NetworkUser, n
	text, changed := n.ResolvConf(resolv)
	// What somebody has put there by sandbox-paths stays.
	i := slices.IndexFunc(spec.Mounts, func(m mountns.Mount) bool { return m.Target == resolvConf && m.Source == resolvConf && m.Follow })
	if changed && i >= 0 {
		spec.Mounts = slices.Delete(slices.Clone(spec.Mounts), i, i+1)
		spec.Tree = append(slices.Clone(spec.Tree), sandbox.File(resolvConf, 0o644, text))
	}
	return &spec
}

// readResolvConf reads the machine's file. One that is missing counts as empty.
func readResolvConf() (string, error) {
	const most = 64 << 10 // bytes
	f, err := os.Open(resolvConf)
	if errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, most))
	return string(text), err
}

// proxies are the proxies that an environment names.
func proxies(env []string) (urls []string) {
	for _, e := range env {
		name, value, _ := strings.Cut(e, "=")
		switch strings.ToLower(name) {
		case "http_proxy", "https_proxy", "ftp_proxy", "all_proxy":
			urls = append(urls, value)
		}
	}
	return urls
}

// needs are what builtin:fetchurl has to reach besides what it is asked for.
func (s *FetchSettings) needs() []string {
	urls := append([]string{s.Proxy.HTTP, s.Proxy.HTTPS}, s.HashedMirrors...)
	if s.AllowLoopback {
		urls = append(urls, "localhost") // by allow-loopback-downloads
	}
	return urls
}

// server reads a URL, or a proxy without a scheme, nil if it is neither: whoever uses
// it will say so.
func server(text string) *url.URL {
	if !strings.Contains(text, "://") {
		text = "http://" + text
	}
	u, err := url.Parse(text)
	if err != nil {
		return nil
	}
	return u
}

// withoutPassword is how a server may be spoken of.
func withoutPassword(text string) string {
	u := server(text)
	if u == nil || u.User == nil {
		return text
	}
	return u.Redacted()
}

// onLoopback tells whether a URL, or a proxy without a scheme, is on the loopback
// interface as far as its text tells.
func onLoopback(text string) bool {
	u := server(text)
	if text == "" || u == nil {
		return false
	}
	host := strings.ToLower(strings.TrimSuffix(u.Hostname(), "."))
	if host == "localhost" || strings.HasSuffix(host, ".localhost") {
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && (addr.Unmap().IsLoopback() || addr.IsUnspecified())
}
