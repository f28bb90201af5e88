package sandbox

import (
	"cmp"
	"fmt"

	"github.com/kilnbuild/kiln/mountns"
	"github.com/kilnbuild/kiln/sandbox/cgroup"
)

const (
	yes      = "yes"
	no       = "no"
	private  = "private"
	host     = "the machine's"
	userMode = "user-mode"
)

// report derives the isolation report of a program that runs.
// g is its control group, nil for none.
func report(s *Spec, f Facts, g *cgroup.Group) Report {
	r := &Report{}
	full := s.Isolation == Full
	wanted := full || s.Fallback != ""
	for _, name := range []string{"mount", "pid", "ipc", "uts"} {
		r.layer(name+" namespace", choose(wanted, private, host), choose(full, private, host), s.Fallback)
	}
	r.network(s)
	r.user(s)
	r.layer("root directory", choose(wanted, "pivot_root", host), choose(full, "pivot_root", host), s.Fallback)
	if full {
		r.layer("bind mounts", "read-only", "read-only", fmt.Sprintf("%d read-only, %d writable because asked for", readOnly(s.Mounts), binds(s.Mounts)-readOnly(s.Mounts)))
	} else {
		r.layer("bind mounts", choose(wanted, "read-only", host), host, s.Fallback)
	}
	sets := s.ruleSets()
	filter := choose(sets != 0, "filter", "none")
	r.layer("seccomp", filter, filter, describeSets(sets))
	r.layer("no_new_privs", choose(!s.AllowNewPrivileges, yes, no), choose(!s.AllowNewPrivileges, yes, no), "")
	if full && s.Users.many() {
		r.layer("capabilities", "its own namespace", "its own namespace", "it is the root of its namespace")
	} else {
		r.layer("capabilities", choose(wanted, "none", host), choose(full, "none", host), s.Fallback)
	}
	r.landlock(s, f)
	r.group(s, g)

	r.Level = s.Level()
	return *r
}

func (r *Report) layer(name, asked, inForce, why string) {
	r.Layers = append(r.Layers, Layer{Name: name, Asked: asked, InForce: inForce, Why: why})
}

func choose[T any](yes bool, a, b T) T {
	if yes {
		return a
	}
	return b
}

func (r *Report) network(s *Spec) {
	full := s.Isolation == Full
	switch {
	case full && s.Network == NetworkUser:
		why := "a namespace of its own; the machine's loopback and link-local addresses are out of reach"
		if s.Users.many() {
			// The rules that see to it are in its hands.
			why = "a namespace of its own; the machine's loopback is out of reach, but not link-local addresses: the program is the root of its namespace"
		}
		r.layer("network", s.UserNetwork.String(), s.UserNetwork.String(), why)
	case full && s.Network != NetworkHost:
		r.layer("network", private, private, "loopback only")
	case full && s.NetworkFallback != "":
		r.layer("network", userMode, host, s.NetworkFallback)
	case full:
		r.layer("network", host, host, "the program may use the network")
	default:
		asked := map[Network]string{NetworkPrivate: private, NetworkUser: s.UserNetwork.String()}
		r.layer("network", cmp.Or(asked[s.Network], host), host, s.Fallback)
	}
}

func (r *Report) user(s *Spec) {
	u := s.Users
	switch {
	case s.Isolation != Full:
		r.layer("user mapping", "none", "none", fmt.Sprintf("runs as %d:%d", u.OutsideUID, u.OutsideGID))
	case u.Namespace:
		m := fmt.Sprintf("%d:%d is %d:%d outside", u.InsideUID, u.InsideGID, u.OutsideUID, u.OutsideGID)
		if u.many() {
			m += fmt.Sprintf(", and so are the %d ids from there on", u.Count)
		}
		r.layer("user namespace", private, private, m)
	default:
		r.layer("user namespace", private, host, fmt.Sprintf("this machine has no user namespaces for us; runs as %d:%d", u.OutsideUID, u.OutsideGID))
	}
}

// group tells of the control group and of every limit that was asked for.
func (r *Report) group(s *Spec, g *cgroup.Group) {
	switch {
	case g == nil:
		r.layer("cgroup", "not asked for", "none", "")
		return
	case !g.Counts():
		r.layer("cgroup", private, "none", "this process can make none on this machine")
	default:
		r.layer("cgroup", private, private, "")
	}
	for _, l := range limitTexts(s.Limits) {
		inForce, why := l.text, ""
		for _, lack := range g.Lacks() {
			if lack.Resource == l.of {
				inForce, why = "not enforced", lack.Why
			}
		}
		r.layer(string(l.of)+" limit", l.text, inForce, why)
	}
}

func (r *Report) landlock(s *Spec, f Facts) {
	const scope = "abstract sockets and signals"
	switch {
	case s.Isolation != Full || s.AllowNewPrivileges || s.Users.many():
		r.layer("landlock", "none", "none", "")
	case f.LandlockABI >= landlockScopes:
		r.layer("landlock", scope, scope, fmt.Sprintf("ABI %d", f.LandlockABI))
	case f.LandlockABI == 0:
		r.layer("landlock", scope, "none", "the kernel has no Landlock")
	default:
		r.layer("landlock", scope, "none", fmt.Sprintf("the kernel's Landlock has ABI %d, %d is needed", f.LandlockABI, landlockScopes))
	}
}

func describeSets(sets ruleSet) string {
	text := ""
	for _, part := range []struct {
		set  ruleSet
		name string
	}{{rulesSetID, "setuid bits, extended attributes"}, {rulesKernel, "packet, raw and netlink sockets, io_uring"}, {rulesUserNS, "user namespaces"}} {
		if sets&part.set == 0 {
			continue
		}
		if text != "" {
			text += ", "
		}
		text += part.name
	}
	if text != "" {
		text = "refuses " + text
	}
	return text
}

func readOnly(mounts []mountns.Mount) (n int) {
	for _, m := range mounts {
		if m.Kind == mountns.Bind && !m.Writable {
			n++
		}
	}
	return n
}

func binds(mounts []mountns.Mount) (n int) {
	for _, m := range mounts {
		if m.Kind == mountns.Bind {
			n++
		}
	}
	return n
}
