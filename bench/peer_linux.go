package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// enterRoot makes root the root directory of the calling thread, and of what it
// starts, in a mount namespace of their own. There, dir is where it was, with the
// accounts of this run; nothing is written into root. It is a change of roots and
// not chroot, since in a chroot nobody can make user namespaces, and sandboxes
// would be others. The thread is not good for anything else then.
func enterRoot(root, dir string) error {
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("unshare mount namespace: %w", err)
	}
	top := "/" + strings.Split(strings.TrimPrefix(dir, "/"), "/")[0]
	steps := []struct {
		source, target, fstype string
		flags                  uintptr
		data                   string
		create                 bool
	}{
		{source: "none", target: "/", flags: unix.MS_REC | unix.MS_PRIVATE},
		{source: root, target: root, flags: unix.MS_BIND},
		{source: "proc", target: root + "/proc", fstype: "proc"},
		{source: "/dev", target: root + "/dev", flags: unix.MS_BIND | unix.MS_REC},
		{source: "none", target: root + top, fstype: "tmpfs", data: "mode=0755"},
		{source: dir, target: root + dir, flags: unix.MS_BIND | unix.MS_REC, create: true},
		{source: "/etc/passwd", target: root + "/etc/passwd", flags: unix.MS_BIND},
		{source: "/etc/group", target: root + "/etc/group", flags: unix.MS_BIND},
		{source: "none", target: root, flags: unix.MS_BIND | unix.MS_REMOUNT | unix.MS_RDONLY},
	}
	for _, s := range steps {
		if s.create {
			if err := os.MkdirAll(s.target, 0o755); err != nil {
				return err
			}
		}
		if err := unix.Mount(s.source, s.target, s.fstype, s.flags, s.data); err != nil {
			return fmt.Errorf("mount %s on %s: %w", s.source, s.target, err)
		}
	}
	if err := unix.Chdir(root); err != nil {
		return fmt.Errorf("enter %s: %w", root, err)
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("make %s the root directory: %w", root, err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("leave the old root directory: %w", err)
	}
	return unix.Chdir("/")
}

// isPeer tells whether a root directory has a Nix in it.
func isPeer(root string) bool {
	info, err := os.Stat(filepath.Join(root, "usr/bin/nix-store"))
	return err == nil && info.Mode()&0o111 != 0
}
