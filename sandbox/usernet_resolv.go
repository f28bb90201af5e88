package sandbox

import (
	"net/netip"
	"strings"
)

// ResolvConf is the machine's resolv.conf as a program in a user-mode network
// needs it: name servers that it cannot reach, because they are on the machine's
// loopback interface or have a link-local address, are replaced by the stack's
// own address for name servers, behind which the first of the machine's answers.
// changed tells whether anything was replaced.
//
// A file without any name server means one on the loopback interface (see
// resolv.conf(5)), and gets the stack's.
func (n UserNetwork) ResolvConf(machine string) (text string, changed bool) {
	var b strings.Builder
	named := make(map[string]bool)
	server := func(name string) {
		if !named[name] {
			named[name] = true
			b.WriteString("nameserver " + name + "\n")
		}
	}
	for line := range strings.Lines(machine) {
		words := strings.Fields(line)
		if len(words) < 2 || words[0] != "nameserver" {
			b.WriteString(strings.TrimSuffix(line, "\n") + "\n")
			continue
		}
		name := words[1]
		if addr, err := netip.ParseAddr(name); err == nil && outOfReach(addr) {
			name, changed = n.resolver(addr), true
		}
		server(name)
	}
	if len(named) == 0 {
		server(n.resolver(netip.IPv4Unspecified()))
		changed = true
	}
	return b.String(), changed
}

// resolver is the stack's address for the machine's name servers of a family.
func (n UserNetwork) resolver(like netip.Addr) string {
	v4, v6 := n.resolvers()
	if like.Unmap().Is4() {
		return v4.String()
	}
	return v6.String()
}

// outOfReach tells whether a program in a user-mode network cannot connect to an
// address.
func outOfReach(addr netip.Addr) bool {
	addr = addr.Unmap().WithZone("")
	if addr.IsLoopback() || addr.IsUnspecified() {
		return true
	}
	for _, p := range unreachable {
		if p.Contains(addr) {
			return true
		}
	}
	return false
}
