package enclave

import "fmt"

// Options say what an enclave has.
type Options struct {
	// Groups are the names of the groups of build users to make. No account of
	// the machine may have one of these names.
	Groups []string
	// Members is the number of users in each group; 0 means 4.
	Members int
	// Size bounds the work directory, together with a copy of /etc, in the form
	// that a tmpfs takes ("2g", "80%"); empty means the kernel's choice, half of
	// the memory.
	Size string
}

// An Enclave is the corner that the process is in.
type Enclave struct {
	// Dir is the work directory: empty, in memory, owned by root, readable by
	// all. No component of it is writable by others, as builders' directories
	// want it. It goes away with the last process of the enclave.
	Dir    string
	Groups []Group
}

// A Group has build users that nobody else has.
type Group struct {
	Name string
	GID  int
	UIDs []int
}

// Group is the group of that name, which must be one of those asked for.
func (e *Enclave) Group(name string) Group {
	for _, g := range e.Groups {
		if g.Name == name {
			return g
		}
	}
	panic(fmt.Sprintf("enclave has no group %q", name))
}

// user is the name of the i-th member of a group.
func user(group string, i int) string { return fmt.Sprintf("%s%d", group, i+1) }

const defaultMembers = 4

// groups numbers the groups from base on: each has a block of ids, the first of
// which is the group's.
func groups(opts Options, base int) []Group {
	n := opts.Members
	if n == 0 {
		n = defaultMembers
	}
	var gs []Group
	for _, name := range opts.Groups {
		g := Group{Name: name, GID: base}
		for i := range n {
			g.UIDs = append(g.UIDs, base+1+i)
		}
		gs = append(gs, g)
		base += n + 1
	}
	return gs
}
