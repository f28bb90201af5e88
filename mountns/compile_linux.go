package mountns

import (
	"encoding/binary"
	"path"

	"github.com/kilnbuild/kiln/sandbox/program"
	"golang.org/x/sys/unix"
)

// The calls that mounts are made of.
var (
	callMount        = program.Call{Name: "mount", Number: unix.SYS_MOUNT}
	callUmount       = program.Call{Name: "umount2", Number: unix.SYS_UMOUNT2}
	callPivotRoot    = program.Call{Name: "pivot_root", Number: unix.SYS_PIVOT_ROOT}
	callChdir        = program.Call{Name: "chdir", Number: unix.SYS_CHDIR}
	callUnshare      = program.Call{Name: "unshare", Number: unix.SYS_UNSHARE}
	callOpenTree     = program.Call{Name: "open_tree", Number: unix.SYS_OPEN_TREE}
	callMountSetattr = program.Call{Name: "mount_setattr", Number: unix.SYS_MOUNT_SETATTR}
	callMoveMount    = program.Call{Name: "move_mount", Number: unix.SYS_MOVE_MOUNT}
	callClose        = program.Call{Name: "close", Number: unix.SYS_CLOSE}
	callRead         = program.Call{Name: "read", Number: unix.SYS_READ}
	callWrite        = program.Call{Name: "write", Number: unix.SYS_WRITE}
)

// MountFloor is the oldest Linux that has every call used here: mount_setattr
// came last.
const MountFloor = "5.12"

// Private appends what cuts the namespace off from the mounts of others.
func Private(p *program.Program) {
	mount(p, "make mounts private", "", "/", "", unix.MS_PRIVATE|unix.MS_REC, "MS_PRIVATE|MS_REC", "")
}

// Root appends what makes root, a directory on the machine, a mount of its own
// and cuts the namespace off from the mounts of others. live, if it is not
// empty, is a directory inside root that is shared with the namespaces that are
// copied from this one.
func Root(p *program.Program, root, live string) {
	Private(p)
	mount(p, "bind the root directory on itself", root, root, "", unix.MS_BIND, "MS_BIND", "")
	if live != "" {
		// The root must not be shared itself: pivot_root would refuse it.
		dir := path.Join(root, live)
		mount(p, "bind "+live+" on itself", dir, dir, "", unix.MS_BIND, "MS_BIND", "")
		mount(p, "share "+live, "", dir, "", unix.MS_SHARED, "MS_SHARED", "")
	}
}

func mount(p *program.Program, what, source, target, fstype string, flags uintptr, names, data string) {
	p.Add(what, callMount, program.String(source), program.String(target), program.String(fstype), program.Named(flags, names), program.String(data))
}

// Compile appends what makes m below root. The place for it must be there.
func (m Mount) Compile(p *program.Program, root string) {
	target := path.Join(root, m.Target)
	const hardened, hardenedNames = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, "MS_NOSUID|MS_NODEV|MS_NOEXEC"
	switch m.Kind {
	case Bind:
		m.bind(p, target)
	case Proc:
		mount(p, "mount "+m.Target, "proc", target, "proc", hardened, hardenedNames, "")
	case Sysfs:
		mount(p, "mount "+m.Target, "sysfs", target, "sysfs", hardened|unix.MS_RDONLY, hardenedNames+"|MS_RDONLY", "")
	case Tmpfs:
		data := "mode=1777"
		if m.Size != "" {
			data += ",size=" + m.Size
		}
		mount(p, "mount "+m.Target, "tmpfs", target, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "MS_NOSUID|MS_NODEV", data)
	case Devpts:
		mount(p, "mount "+m.Target, "devpts", target, "devpts", unix.MS_NOSUID|unix.MS_NOEXEC, "MS_NOSUID|MS_NOEXEC", "newinstance,mode=0620,ptmxmode=0666")
	}
}

// bind clones the source's mounts, restricts the clone while nobody can see it,
// and moves it into place.
func (m Mount) bind(p *program.Program, target string) {
	what := "mount " + m.Source + " on " + m.Target
	tree, _ := p.Add(what, callOpenTree, program.Here, program.String(m.Source), openTreeFlags(m.Follow))
	m.restrict(p, what, tree)
	p.Add(what, callMoveMount, program.Result(tree), program.String(""), program.Here, program.String(target),
		program.Named(uint(unix.MOVE_MOUNT_F_EMPTY_PATH), "MOVE_MOUNT_F_EMPTY_PATH"))
	p.Add("", callClose, program.Result(tree))
}

func openTreeFlags(follow bool) program.Arg {
	flags, names := uint(unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE), "OPEN_TREE_CLONE|OPEN_TREE_CLOEXEC|AT_RECURSIVE"
	if !follow {
		flags, names = flags|unix.AT_SYMLINK_NOFOLLOW, names+"|AT_SYMLINK_NOFOLLOW"
	}
	return program.Named(flags, names)
}

// restrict sets the attributes of a detached tree. Done after the mount is in
// place, it would not reach the namespaces that share it.
func (m Mount) restrict(p *program.Program, what string, tree program.Ref) {
	attr := attributes[m.Writable][m.Devices]
	if attr == nil {
		return
	}
	p.Add(what, callMountSetattr, program.Result(tree), program.String(""),
		program.Named(uint(unix.AT_EMPTY_PATH|unix.AT_RECURSIVE), "AT_EMPTY_PATH|AT_RECURSIVE"), *attr, program.Number(mountAttrSize))
}

const mountAttrSize = 32 // of struct mount_attr, of which attr_set comes first

// attributes are those that a tree gets, by whether it is writable and has devices.
var attributes = map[bool]map[bool]*program.Arg{
	false: {
		false: setAttributes(unix.MOUNT_ATTR_RDONLY|unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV, "MOUNT_ATTR_RDONLY|MOUNT_ATTR_NOSUID|MOUNT_ATTR_NODEV"),
		true:  setAttributes(unix.MOUNT_ATTR_RDONLY, "MOUNT_ATTR_RDONLY"),
	},
	true: {false: setAttributes(unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV, "MOUNT_ATTR_NOSUID|MOUNT_ATTR_NODEV")},
}

func setAttributes(set uint64, names string) *program.Arg {
	attr := make([]byte, mountAttrSize)
	binary.NativeEndian.PutUint64(attr, set)
	arg := program.Bytes(attr, "{attr_set="+names+"}")
	return &arg
}

// Fork appends what copies the namespace, while the launcher keeps hold of the
// one before: the sibling, in which the machine's tree can still be seen.
func Fork(p *program.Program) {
	_, announce := p.Add("offer the sibling namespace", callWrite, program.ReadyFD, program.String("."), program.Number(1))
	announce.Check, announce.Want = true, 1
	_, await := p.Add("wait until the sibling namespace is held", callRead, program.GoFD, program.Bytes(make([]byte, 8), "buf"), program.Number(1))
	await.Check, await.Want = true, 1
	p.Add("copy the mount namespace", callUnshare, program.Named(uint(unix.CLONE_NEWNS), "CLONE_NEWNS"))
}

// Pivot appends what makes root the root directory, with nothing of the
// machine's tree left. No directory is needed for the old root: it is put over
// the new one and then taken away (pivot_root(2)).
func Pivot(p *program.Program, root string) {
	p.Add("enter the root directory", callChdir, program.String(root))
	p.Add("pivot into the root directory", callPivotRoot, program.String("."), program.String("."))
	p.Add("detach the old root", callUmount, program.String("."), program.Named(uint(unix.MNT_DETACH), "MNT_DETACH"))
	p.Add("enter the new root", callChdir, program.String("/"))
}
