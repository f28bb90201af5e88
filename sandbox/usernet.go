package sandbox

import (
	"fmt"
	"net/netip"
)

// UserStack is a program that is a network stack for a namespace: what the
// namespace sends to its only interface, the program sends on by sockets of its
// own, as any user may open them.
type UserStack string

// The stacks that are known, the preferred one first.
const (
	Pasta       UserStack = "pasta"
	Slirp4netns UserStack = "slirp4netns"
)

// UserNetwork is what NetworkUser needs. Launcher.UserNetwork finds one that
// works.
type UserNetwork struct {
	Stack   UserStack `json:"stack,omitempty"`
	Program string    `json:"program,omitempty"` // its file on the machine, absolute
}

// String is how reports call it.
func (n UserNetwork) String() string { return fmt.Sprintf("user-mode (%s)", n.Stack) }

// What a program finds in its namespace: nothing of the machine's own addresses.
// The network is one that nobody has (RFC 5737), since what a stack calls its own
// cannot be reached outside. slirp4netns derives the other addresses from it.
const (
	userInterface = "tap0"
	userNet4      = "198.51.100.0"
	userBits4     = "24"
	userAddress4  = "198.51.100.100"
	userGateway4  = "198.51.100.2"
	userResolver4 = "198.51.100.3"

	// Of these slirp4netns has its own, which cannot be changed.
	userAddress6  = "fd6b:696c:6e::100"
	userGateway6  = "fe80::1"
	userResolver6 = "fd6b:696c:6e::3"

	slirpResolver6 = "fd00::3"
)

// resolvers are the addresses behind which the machine's name servers answer.
func (n UserNetwork) resolvers() (v4, v6 netip.Addr) {
	v6 = netip.MustParseAddr(userResolver6)
	if n.Stack == Slirp4netns {
		v6 = netip.MustParseAddr(slirpResolver6)
	}
	return netip.MustParseAddr(userResolver4), v6
}

// A netRule says of a destination whether a program may reach it. The first that
// fits counts.
type netRule struct {
	to    netip.Prefix
	reach bool
	port  uint16 // 0 for any
}

// unreachable are destinations whose hosts trust the machine that asks. It is
// where clouds hand out a machine's credentials.
var unreachable = []netip.Prefix{
	netip.MustParsePrefix("169.254.0.0/16"),
	netip.MustParsePrefix("fe80::/10"),
	netip.MustParsePrefix("fd00:ec2::254/128"),
}

// rules are what a program may reach. Of the stack's own network that is the name
// server: behind the other addresses and ports there could only be the machine.
func (n UserNetwork) rules() []netRule {
	const domain = 53
	var rules []netRule
	for _, p := range unreachable {
		rules = append(rules, netRule{to: p})
	}
	v4, v6 := n.resolvers()
	for _, own := range []netip.Prefix{netip.PrefixFrom(v4, 24), netip.PrefixFrom(v6, 64)} {
		server := netip.PrefixFrom(own.Addr(), own.Addr().BitLen())
		rules = append(rules,
			netRule{to: server, reach: true, port: domain},
			netRule{to: own.Masked()})
	}
	return rules
}

// args are the arguments that make the program join the network namespace on
// its standard input, say on its standard output that it is ready, and forward
// nothing but what goes out. asRoot says that it is root, and is to stay so: only
// root may open /dev/net/tun.
func (n UserNetwork) args(asRoot bool) []string {
	const netns, ready, mtu = "/proc/self/fd/0", "/proc/self/fd/1", "65520"
	if n.Stack == Slirp4netns {
		args := []string{
			"slirp4netns", "--configure", "--mtu=" + mtu, "--cidr=" + userNet4 + "/" + userBits4, "--enable-ipv6",
			"--disable-host-loopback", "--enable-seccomp", "--ready-fd=1", "--netns-type=path",
		}
		if asRoot {
			// Others would have to be root in the user namespace, which nobody is.
			args = append(args, "--enable-sandbox")
		}
		return append(args, netns, userInterface)
	}
	args := []string{
		"pasta", "--foreground", "--quiet", "--config-net", "--no-netns-quit", "--netns-only", "--netns", netns, "--pid", ready,
		"--ns-ifname", userInterface, "--mtu", mtu,
		"--address", userAddress4, "--netmask", userBits4, "--gateway", userGateway4, "--dns-forward", userResolver4,
		"--address", userAddress6, "--gateway", userGateway6, "--dns-forward", userResolver6,
		// Without these it connects the loopback interfaces of both sides.
		"--no-map-gw", "--tcp-ports", "none", "--udp-ports", "none", "--tcp-ns", "none", "--udp-ns", "none",
		"--no-dhcp", "--no-dhcpv6", "--no-ra",
	}
	if asRoot {
		args = append(args, "--runas", "0:0")
	}
	return args
}

// UserNetworkError says why there is no user-mode network, or is none any more.
type UserNetworkError struct {
	Reason string
	Remedy string // what to do about it, "" when there is nothing to say
}

func (e *UserNetworkError) Error() string {
	text := "no user-mode network: " + e.Reason
	if e.Remedy != "" {
		text += " (" + e.Remedy + ")"
	}
	return text
}
