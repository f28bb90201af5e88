package mountns

// Kind is what is mounted.
type Kind string

// The kinds of mounts.
const (
	Bind   Kind = "bind"   // a file or directory of the machine
	Proc   Kind = "proc"   // /proc of the process's own pid namespace
	Tmpfs  Kind = "tmpfs"  // an empty file system in memory
	Devpts Kind = "devpts" // pseudo-terminals of the sandbox's own
	Sysfs  Kind = "sysfs"  // /sys of the process's own network namespace
)

// Mount is one mount. The zero value of a choice is the safe one.
type Mount struct {
	Kind   Kind   `json:"kind"`
	Source string `json:"source,omitempty"` // Bind: an absolute path on the machine
	Target string `json:"target"`           // an absolute, clean path inside the new root
	// Writable leaves a Bind as writable as it is on the machine. Otherwise it is
	// read-only, with everything mounted below it.
	Writable bool `json:"writable,omitempty"`
	// Devices leaves device nodes usable and setuid programs effective as far as
	// the source's own mount does. Otherwise they are neither.
	Devices bool `json:"devices,omitempty"`
	// Optional leaves a Bind out when there is no Source.
	Optional bool `json:"optional,omitempty"`
	// Follow binds what a Source that is a symlink leads to. Otherwise the symlink
	// itself is made again in the new root.
	Follow bool   `json:"follow,omitempty"`
	Size   string `json:"size,omitempty"` // Tmpfs: as in the option size of tmpfs(5)
}

// IDMap is one line of a uid_map or gid_map (user_namespaces(7)).
type IDMap struct {
	Inside  int `json:"inside"`
	Outside int `json:"outside"`
	Count   int `json:"count"`
}
