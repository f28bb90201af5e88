package sandbox

import (
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func TestHiddenParts(t *testing.T) {
	// Of a container, and what machines have.
	const mounts = `611 610 0:51 / /proc rw,nosuid - proc proc rw
620 611 0:51 /sys /proc/sys ro,nosuid - proc proc rw
621 611 0:55 /null /proc/kcore rw,nosuid - tmpfs tmpfs rw
622 611 0:60 / /proc/sys/fs/binfmt_misc rw - autofs systemd-1 rw
630 610 8:1 / /process rw - ext4 /dev/sda rw
short line
`
	if got, want := hiddenParts(mounts), []string{"/proc/sys", "/proc/kcore"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestContainerRemedy(t *testing.T) {
	hidden := []string{"/proc/kcore"}
	const calls, proc, profile = "seccomp=unconfined", "systempaths=unconfined", "apparmor=unconfined"
	for _, test := range []struct {
		name        string
		c           container
		stage, call string
		errno       syscall.Errno
		want        []string // parts of the remedy, none for none
	}{
		{"a machine", container{}, "mount /proc", "mount", unix.EPERM, nil},
		{"as Docker has it", container{filtered: true, hidden: hidden}, "clone into new namespaces", "clone3", unix.EPERM, []string{"refuses clone3", calls, proc}},
		{"with AppArmor", container{filtered: true, hidden: hidden, profile: "docker-default (enforce)"}, "clone into new namespaces", "clone3", unix.EPERM,
			[]string{calls, proc, profile}},
		{"AppArmor alone", container{profile: "docker-default (enforce)"}, "make mounts private", "mount", unix.EACCES, []string{"docker-default", profile}},
		{"/proc alone", container{filtered: true, hidden: hidden}, stageProc, "mount", unix.EPERM, []string{"/proc are hidden", proc}},
		{"one call", container{filtered: true}, "pivot into the root directory", "pivot_root", unix.EPERM, []string{"refuses pivot_root", calls}},
		{"no room", container{filtered: true}, "clone into new namespaces", "clone3", unix.ENOSPC, nil},
		{"not of a set-up", container{filtered: true}, "become the user", "setresuid", unix.EPERM, nil},
	} {
		got := test.c.remedy(test.stage, test.call, test.errno)
		for _, want := range test.want {
			if !strings.Contains(got, want) {
				t.Errorf("%s: %q does not say %q", test.name, got, want)
			}
		}
		for _, flag := range []string{calls, proc, profile} {
			if strings.Contains(got, flag) && !slices.Contains(test.want, flag) {
				t.Errorf("%s: %q says %q, which is not in the way", test.name, got, flag)
			}
		}
		if test.want == nil && got != "" || strings.Contains(got, "\n") {
			t.Errorf("%s: %q", test.name, got)
		}
	}
}

func TestEffective(t *testing.T) {
	if got := effective("Name:\tx\nCapPrm:\t0000000000000001\nCapEff:\t00000000a80425fb\nCapBnd:\t0\n"); got != 0xa80425fb {
		t.Errorf("got %x", got)
	}
	if c := (container{caps: 1 << unix.CAP_SETUID}); !c.has(unix.CAP_SETUID) || c.has(unix.CAP_SYS_ADMIN) {
		t.Errorf("%b", c.caps)
	}
}
