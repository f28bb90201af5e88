package sandbox

import (
	"fmt"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/kilnbuild/kiln/mountns"
	"github.com/kilnbuild/kiln/sandbox/cgroup"
)

// Isolation says whether a Spec's program is isolated at all.
type Isolation string

// The choices.
const (
	Full Isolation = "full" // namespaces, a root of its own, filters
	None Isolation = "none" // none of these: a session of its own, and the user asked for
)

// Network says which network a program has.
type Network string

// The choices.
const (
	NetworkPrivate Network = "private" // loopback and nothing else
	NetworkHost    Network = "host"    // the machine's
	NetworkUser    Network = "user"    // a namespace of its own, and a user-mode network stack as its only way out
)

// Spec is everything about one isolated program. It is plain data and can be
// printed as JSON.
type Spec struct {
	Name string   `json:"name"` // for messages
	Path string   `json:"path"` // the program, inside
	Args []string `json:"args"` // with the program's name first
	Env  []string `json:"env"`  // "NAME=value"
	Dir  string   `json:"dir"`  // the working directory, inside

	Isolation Isolation `json:"isolation"`
	// Fallback says, for a program without isolation that should have had it, why
	// that is so. It is for the report.
	Fallback string `json:"fallback,omitempty"`
	// Root is the directory on the machine that becomes "/". Stage makes it; its
	// parent must be there.
	Root   string          `json:"root,omitempty"`
	Tree   []Entry         `json:"tree,omitempty"`   // what Root has before anything is mounted
	Mounts []mountns.Mount `json:"mounts,omitempty"` // in order
	// Live is a directory inside the root in which paths can be attached while the
	// program runs; "" for none. Its name is an absolute path.
	Live string `json:"live,omitempty"`

	Users   Users   `json:"users"`
	Network Network `json:"network,omitempty"`
	// UserNetwork is the stack of a NetworkUser.
	UserNetwork UserNetwork `json:"userNetwork,omitzero"`
	// NetworkFallback says, for a NetworkHost that should have been a NetworkUser,
	// why that is so. It is for the report.
	NetworkFallback string `json:"networkFallback,omitempty"`
	// Hostname and Domainname are those of the program's own UTS namespace.
	Hostname   string `json:"hostname,omitempty"`
	Domainname string `json:"domainname,omitempty"`

	// FilterSyscalls installs the system call filter: no setuid and setgid bits, no
	// extended attributes, and in isolation none of the parts of the kernel that
	// programs like these have no business in.
	FilterSyscalls     bool        `json:"filterSyscalls"`
	AllowNewPrivileges bool        `json:"allowNewPrivileges,omitempty"`
	AllowUserNS        bool        `json:"allowUserNS,omitempty"` // the program may make user namespaces of its own
	Personality        Personality `json:"personality"`
	// Terminal makes its standard input, which has to be a terminal, the terminal of its
	// session.
	Terminal bool `json:"terminal,omitempty"`

	// Group runs the program in a control group of its own, also without Limits. A
	// machine that has none, or not all that Limits need, runs it nevertheless, and the
	// report says so, unless RequireLimits is set.
	Group         bool          `json:"group,omitempty"`
	Limits        cgroup.Limits `json:"limits,omitzero"`
	RequireLimits bool          `json:"requireLimits,omitempty"`
}

// grouped tells whether a program is to have a control group.
func (s *Spec) grouped() bool { return s.Group || s.Limits != cgroup.Limits{} }

// Users says who the program is, outside and inside. The zero value of Namespace
// keeps the outside ids inside.
type Users struct {
	Namespace  bool `json:"namespace"` // map the ids in a user namespace
	OutsideUID int  `json:"outsideUID"`
	OutsideGID int  `json:"outsideGID"`
	InsideUID  int  `json:"insideUID"`
	InsideGID  int  `json:"insideGID"`
	// Count is how many users and as many groups a program has, in a Namespace, from
	// these on; 0 stands for one. With more than one it is the root of its
	// namespace: it keeps its capabilities there, and may make others.
	Count int `json:"count,omitempty"`
}

// many tells whether a program has more than one user.
func (u Users) many() bool { return u.Count > 1 }

// Personality is the execution domain (personality(2)). Addresses are never
// randomised.
type Personality struct {
	Linux32 bool `json:"linux32,omitempty"` // uname says that the machine is a 32-bit one
	Uname26 bool `json:"uname26,omitempty"` // uname says that the kernel is 2.6
}

// EntryKind is what an Entry is.
type EntryKind string

// The kinds of entries.
const (
	EntryDirectory EntryKind = "directory"
	EntryFile      EntryKind = "file"
	EntrySymlink   EntryKind = "symlink"
)

// Entry is a file in a root directory. Parents that are not entries themselves
// are made with mode 0755.
type Entry struct {
	Kind EntryKind   `json:"kind"`
	Path string      `json:"path"` // absolute, inside
	Mode os.FileMode `json:"mode,omitempty"`
	// Text is a file's content or where a symlink leads.
	Text string `json:"text,omitempty"`
	// Owned entries are given to UID and GID, as the machine knows them, by a
	// process that may do that; others belong to whoever makes them.
	Owned bool `json:"owned,omitempty"`
	UID   int  `json:"uid,omitempty"`
	GID   int  `json:"gid,omitempty"`
}

// Dir is a directory.
func Dir(p string, mode os.FileMode) Entry { return Entry{Kind: EntryDirectory, Path: p, Mode: mode} }

// File is a file with content.
func File(p string, mode os.FileMode, text string) Entry {
	return Entry{Kind: EntryFile, Path: p, Mode: mode, Text: text}
}

// Symlink is a symlink to target.
func Symlink(p, target string) Entry { return Entry{Kind: EntrySymlink, Path: p, Text: target} }

// OwnedBy gives the entry to a user and group.
func (e Entry) OwnedBy(uid, gid int) Entry {
	e.Owned, e.UID, e.GID = true, uid, gid
	return e
}

// Modes with bits that os.FileMode keeps elsewhere.
const (
	// ModeSticky is the mode of a directory that all may write to, such as /tmp.
	ModeSticky = os.ModeSticky | 0o777
	// ModeStickyGroup is the same for the owner and its group, readable by all.
	ModeStickyGroup = os.ModeSticky | 0o775
)

// DevTree is what a /dev of a program's own has besides mounts.
func DevTree() []Entry {
	return []Entry{
		Dir("/dev", 0o755),
		Symlink("/dev/fd", "/proc/self/fd"),
		Symlink("/dev/stdin", "/proc/self/fd/0"),
		Symlink("/dev/stdout", "/proc/self/fd/1"),
		Symlink("/dev/stderr", "/proc/self/fd/2"),
		Symlink("/dev/ptmx", "/dev/pts/ptmx"),
	}
}

// DevMounts are the devices of such a /dev: those that any program may rely on.
func DevMounts() []mountns.Mount {
	var mounts []mountns.Mount
	for _, name := range []string{"full", "null", "random", "tty", "urandom", "zero"} {
		mounts = append(mounts, Device("/dev/"+name))
	}
	return mounts
}

// Device is the mount of one device node.
func Device(p string) mountns.Mount {
	return mountns.Mount{Kind: mountns.Bind, Source: p, Target: p, Writable: true, Devices: true}
}

// Level is the summary of the report that a program of this Spec would get: "full",
// "partial" or "none".
func (s *Spec) Level() string {
	switch {
	case s.Isolation != Full:
		return string(None)
	case s.Network == NetworkHost || s.AllowNewPrivileges || !s.FilterSyscalls || !s.Users.Namespace:
		return "partial"
	}
	return string(Full)
}

// Validate says what cannot be meant by the Spec.
func (s *Spec) Validate() error {
	bad := func(format string, args ...any) error {
		return fmt.Errorf("sandbox of '%s': %s", s.Name, fmt.Sprintf(format, args...))
	}
	texts := slices.Concat([]string{s.Path, s.Dir, s.Root, s.Live, s.Hostname, s.Domainname, s.UserNetwork.Program}, s.Args, s.Env)
	for _, m := range s.Mounts {
		texts = append(texts, m.Source, m.Target)
	}
	for _, text := range texts {
		if strings.ContainsRune(text, 0) {
			return bad("%q contains a NUL", text)
		}
	}
	if len(s.Args) == 0 {
		return bad("no arguments, not even the program's name")
	}
	if s.Isolation == None {
		return nil
	}
	if s.Isolation != Full {
		return bad("unknown isolation %q", s.Isolation)
	}
	if !path.IsAbs(s.Root) || path.Clean(s.Root) != s.Root || s.Root == "/" {
		return bad("root directory %q is not a clean absolute path", s.Root)
	}
	switch s.Network {
	case "", NetworkPrivate, NetworkHost:
	case NetworkUser:
		if n := s.UserNetwork; n.Stack != Pasta && n.Stack != Slirp4netns {
			return bad("unknown user-mode network stack %q", n.Stack)
		} else if !path.IsAbs(n.Program) {
			return bad("user-mode network stack %q is not an absolute path", n.Program)
		}
	default:
		return bad("unknown network %q", s.Network)
	}
	if s.Live != "" && (!path.IsAbs(s.Live) || path.Clean(s.Live) != s.Live || s.Live == "/") {
		return bad("live directory %q is not a clean absolute path", s.Live)
	}
	for _, m := range s.Mounts {
		switch m.Kind {
		case mountns.Bind, mountns.Proc, mountns.Tmpfs, mountns.Devpts, mountns.Sysfs:
		default:
			return bad("mount of the unknown kind %q", m.Kind)
		}
		if strings.Trim(m.Size, "0123456789kKmMgGtT%") != "" {
			return bad("size %q on %s, which is not a number of bytes with k, m, g, t or %%", m.Size, m.Target)
		}
		if !path.IsAbs(m.Target) || path.Clean(m.Target) != m.Target || m.Target == "/" {
			return bad("mount on %q, which is not a clean absolute path", m.Target)
		}
		if m.Kind == mountns.Bind && !path.IsAbs(m.Source) {
			return bad("mount of %q, which is not an absolute path", m.Source)
		}
	}
	for _, e := range s.Tree {
		if !path.IsAbs(e.Path) || path.Clean(e.Path) != e.Path {
			return bad("entry %q is not a clean absolute path", e.Path)
		}
	}
	return nil
}
