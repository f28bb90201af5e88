package builtin

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"syscall"
)

// gate makes connections, but not to addresses that only this machine has: what
// listens there trusts whoever can reach it, and a derivation may name any server.
type gate struct {
	dialer   net.Dialer // for servers that derivations, or other servers, name
	open     net.Dialer // for those that the operator names
	loopback bool
	admitted map[string]bool
}

func newGate(s *FetchSettings) *gate {
	g := &gate{loopback: s.AllowLoopback, admitted: make(map[string]bool)}
	g.open.Timeout = s.ConnectTimeout
	g.dialer.Timeout = s.ConnectTimeout
	g.dialer.Control = func(_, address string, _ syscall.RawConn) error { return g.check(address) }
	return g
}

// admit lets connections to a server be made wherever it is. It must not be called
// beside dial of another download.
func (g *gate) admit(server *url.URL) {
	port := server.Port()
	if port == "" {
		port = map[string]string{"http": "80", "https": "443", "socks5": "1080", "socks5h": "1080"}[server.Scheme]
	}
	g.admitted[net.JoinHostPort(server.Hostname(), port)] = true
}

func (g *gate) dial(ctx context.Context, network, server string) (net.Conn, error) {
	if g.admitted[server] {
		return g.open.DialContext(ctx, network, server)
	}
	return g.dialer.DialContext(ctx, network, server)
}

// refusedError says that an address is none that a derivation may fetch from.
type refusedError struct {
	address netip.Addr
	what    string
	remedy  string
}

func (e *refusedError) Error() string {
	return fmt.Sprintf("the address %s is %s, where derivations may not fetch from%s", e.address, e.what, e.remedy)
}

// metadataV6 is where cloud providers answer what in IPv4 has a link-local address.
// (https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/instancedata-data-retrieval.html)
var metadataV6 = netip.MustParseAddr("fd00:ec2::254")

// check refuses addresses of this machine and of what provides it.
func (g *gate) check(address string) error {
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return fmt.Errorf("connect to %q: %w", address, err)
	}
	ip := at.Addr().Unmap().WithZone("")
	switch {
	case ip.IsLinkLocalUnicast(), ip == metadataV6:
		return &refusedError{ip, "link-local", ""}
	case ip.IsLoopback(), ip.IsUnspecified():
		if g.loopback {
			return nil
		}
		return &refusedError{ip, "this machine itself", "; if they shall, set `allow-loopback-downloads = true`"}
	case ip.IsMulticast():
		return &refusedError{ip, "multicast", ""}
	}
	return nil
}
