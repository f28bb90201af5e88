package sandbox

import (
	"errors"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/kilnbuild/kiln/sandbox/launcher"
	"github.com/kilnbuild/kiln/sandbox/program"
	"golang.org/x/sys/unix"
)

// A container is what the container that this process may run in keeps from it. The zero
// value is that of a process on the machine itself.
type container struct {
	filtered bool     // a seccomp filter looks at its system calls
	profile  string   // the AppArmor profile that holds it, "" for none
	hidden   []string // mounts on parts of /proc, in the order in which they were made
	caps     uint64   // the effective capabilities, a bit each
}

// lookAround reads what the kernel says of this process. What cannot be read keeps nothing
// from it.
func lookAround() (c container) {
	status, _ := os.ReadFile("/proc/self/status")
	c.filtered = strings.Contains(string(status), "\nSeccomp:\t2\n")
	c.caps = effective(string(status))
	profile, _ := os.ReadFile("/proc/self/attr/apparmor/current")
	if name := strings.TrimRight(string(profile), "\n\x00"); name != "unconfined" {
		c.profile = name
	}
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	c.hidden = hiddenParts(string(mounts))
	return c
}

// meantForMounts are directories of /proc that are empty without what is mounted there,
// which is on many machines.
var meantForMounts = []string{"/proc/sys/fs/binfmt_misc", "/proc/fs/nfsd"}

// hiddenParts finds what is mounted on parts of /proc: a fresh /proc would show what
// these hide, so the kernel refuses one in a user namespace (mount_too_revealing in
// fs/namespace.c).
func hiddenParts(mountinfo string) (hidden []string) {
	for line := range strings.Lines(mountinfo) {
		if f := strings.Fields(line); len(f) > 4 && strings.HasPrefix(f[4], "/proc/") && !slices.Contains(meantForMounts, f[4]) {
			hidden = append(hidden, f[4])
		}
	}
	return hidden
}

// effective reads the effective capabilities from a process's status.
func effective(status string) uint64 {
	_, text, _ := strings.Cut(status, "\nCapEff:\t")
	text, _, _ = strings.Cut(text, "\n")
	set, _ := strconv.ParseUint(text, 16, 64)
	return set
}

func (c container) has(capability uint) bool { return c.caps&(1<<capability) != 0 }

// rootNeeds are the capabilities that root needs to run builders as their build users: to
// give them files and take these back, to write into what is theirs, and to become them.
var rootNeeds = []struct {
	bit  uint
	name string
}{
	{unix.CAP_CHOWN, "CHOWN"}, {unix.CAP_DAC_OVERRIDE, "DAC_OVERRIDE"}, {unix.CAP_FOWNER, "FOWNER"},
	{unix.CAP_SETGID, "SETGID"}, {unix.CAP_SETUID, "SETUID"},
}

// CapabilitiesError says which capabilities root lacks to run builders.
type CapabilitiesError struct{ Names []string } // without CAP_

func (e *CapabilitiesError) Error() string {
	return "this process is root without CAP_" + strings.Join(e.Names, " and CAP_") + ", with which builders are run as their build users: add --cap-add " +
		strings.Join(e.Names, " --cap-add ") + " to docker run, or in Kubernetes capabilities: {add: [" + strings.Join(e.Names, ", ") +
		"]} to the securityContext; or run kiln as an ordinary user, who needs none"
}

func (e *CapabilitiesError) Unwrap() error { return fs.ErrPermission }

// Capable tells whether this process has what it takes to run builders as the users that
// they are to run as, as far as capabilities go: an ordinary user has. It gives a
// *CapabilitiesError.
func Capable() error {
	if os.Geteuid() != 0 {
		return nil
	}
	c, lacks := lookAround(), &CapabilitiesError{}
	for _, need := range rootNeeds {
		if !c.has(need.bit) {
			lacks.Names = append(lacks.Names, need.name)
		}
	}
	if len(lacks.Names) == 0 {
		return nil
	}
	return lacks
}

// NeedsUserNamespaces tells whether builders cannot be isolated without user namespaces:
// root with CAP_SYS_ADMIN has a choice.
func NeedsUserNamespaces() bool { return os.Geteuid() != 0 || !lookAround().has(unix.CAP_SYS_ADMIN) }

// uncoverable are the hidden parts of /proc that this process may uncover. Kubernetes
// gives a whole /proc to nobody without a user namespace of the container's, so who has
// the privilege to look below makes use of it, in a mount namespace of the launcher's.
// Builders see no more than that on a machine without a container: a /proc of their own.
func (c container) uncoverable() []string {
	if !c.has(unix.CAP_SYS_ADMIN) {
		return nil
	}
	return c.hidden
}

// uncover takes away what hides parts of /proc, in the launcher's mount namespace. That it
// cannot be taken away shows when a sandbox wants a /proc.
func (c *conn) uncover(hidden []string) error {
	if len(hidden) == 0 {
		return nil
	}
	p := &program.Program{}
	p.Begin()
	for _, place := range slices.Backward(hidden) {
		_, in := p.Add("uncover "+place, call("umount2", unix.SYS_UMOUNT2), program.String(place), program.Named(uint(unix.MNT_DETACH), "MNT_DETACH"))
		in.AnyError = true
	}
	code, err := p.Encode()
	if err != nil {
		return err
	}
	memory, err := memoryFile(code)
	if err != nil {
		return err
	}
	defer memory.Close()
	proc := &Process{name: "uncover /proc", steps: p, started: make(chan error, 1), exited: make(chan struct{})}
	if err := c.send(proc, &launcher.Request{Size: uint64(len(code))}, []*os.File{memory}); err != nil {
		return err
	}
	if err := <-proc.started; err != nil {
		return err
	}
	<-proc.exited
	return nil
}

// opening says how a container gives something.
type opening struct{ docker, kubernetes string }

var (
	openCalls    = opening{"--security-opt seccomp=unconfined", "seccompProfile: {type: Unconfined}"}
	openProc     = opening{"--security-opt systempaths=unconfined", "procMount: Unmasked"}
	openAppArmor = opening{"--security-opt apparmor=unconfined", "appArmorProfile: {type: Unconfined}"}
)

// setUpCalls are the system calls of sandboxes that filters of containers know of.
var setUpCalls = []string{
	"clone3", "unshare", "mount", "umount2", "pivot_root", "open_tree", "move_mount", "mount_setattr", "sethostname", "setdomainname", "setns",
}

// remedy says what to give to the container so that a call of a set-up works, "" if it is
// not the container that refuses it. It names everything that would be in the way next.
func (c container) remedy(stage, call string, errno syscall.Errno) string {
	if !slices.Contains(setUpCalls, call) || errno != unix.EPERM && errno != unix.EACCES && errno != unix.ENOSYS {
		return ""
	}
	var missing []opening
	why := ""
	switch proc := stage == stageProc; {
	case proc && len(c.hidden) > 0:
		why = "parts of /proc are hidden here, so the kernel refuses a fresh one"
	case c.filtered && !proc:
		why = "the seccomp profile refuses " + call
		missing = append(missing, openCalls)
	case c.profile != "":
		why = "the AppArmor profile '" + c.profile + "' refuses " + call
	default:
		return ""
	}
	if len(c.hidden) > 0 {
		missing = append(missing, openProc)
	}
	if c.profile != "" {
		missing = append(missing, openAppArmor)
	}
	var docker, kubernetes []string
	for _, o := range missing {
		docker, kubernetes = append(docker, o.docker), append(kubernetes, o.kubernetes)
	}
	return why + ": add " + strings.Join(docker, " ") + " to docker run, or in Kubernetes " + strings.Join(kubernetes, ", ") + " to the securityContext"
}

// stageProc is what errors call the mount of a sandbox's /proc.
const stageProc = "mount /proc"

// containerRemedy is remedy for an error of a set-up.
func containerRemedy(err error) string {
	var failed *SetupError
	if !errors.As(err, &failed) {
		return ""
	}
	return lookAround().remedy(failed.Stage, failed.Call, failed.Errno)
}
