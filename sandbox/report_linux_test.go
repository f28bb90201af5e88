package sandbox

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/kilnbuild/kiln/internal/testenv"
	"github.com/kilnbuild/kiln/mountns"
	"github.com/kilnbuild/kiln/sandbox/cgroup"
	"golang.org/x/sys/unix"
)

// placeVar makes a machine that lacks something of this one, for the tests that the binary
// is told to run.
const placeVar = "KILN_TEST_PLACE"

var places = map[string]func() error{
	"without control groups": func() error {
		// Only where it is entered: the process has a mount namespace of its own.
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			return err
		}
		return unix.Mount("tmpfs", "/sys/fs/cgroup", "tmpfs", 0, "")
	},
	"without user namespaces": func() error {
		if err := os.WriteFile("/proc/sys/user/max_user_namespaces", []byte("0"), 0); err != nil {
			return err
		}
		return unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
	},
}

// inPlace runs this test again on a machine that lacks something.
func inPlace(t *testing.T, place string, attr *syscall.SysProcAttr) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe", "-test.v=true", "-test.run=^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), placeVar+"="+place)
	attr.Pdeathsig = syscall.SIGKILL
	cmd.SysProcAttr = attr
	out, err := cmd.CombinedOutput()
	t.Logf("%s:\n%s", place, out)
	if err != nil {
		t.Errorf("%s: %v", place, err)
	}
}

// probe prints what a shell can find out about itself, a line of name and value each. It
// goes on until there is a file named "enough".
const probe = `
for n in mnt pid ipc uts net user; do echo "$n: $(readlink /proc/self/ns/$n)"; done
echo "root: $(stat -c %d:%i /)"
sed 's/:[[:space:]]*/: /; s/^/status /' /proc/$$/status
echo "uid map:" $(cat /proc/self/uid_map)
while read id parent dev root target options rest; do
	case $options in ro*) echo "read-only $target: true";; *) echo "read-only $target: false";; esac
done < /proc/self/mountinfo
echo "interfaces:" $(sed -n 's/^ *\([a-z0-9]*\):.*/\1/p' /proc/net/dev)
: > probe
case $(chmod 4700 probe 2>&1) in '') echo "setuid bit: set";; *ermitted) echo "setuid bit: EPERM";; esac
sed 's/^[0-9]*:\([^:]*\):/cgroup \1: /' /proc/self/cgroup
echo "end:"
i=0; while ! [ -e enough ] && [ $i -lt 1000 ]; do usleep 10000; i=$((i+1)); done
`

// What a shell cannot try: the argument is an abstract socket of the machine.
func init() {
	roles["probes"] = func() {
		conn, err := net.Dial("unix", "@"+os.Args[1])
		if err == nil {
			conn.Close()
		}
		fmt.Printf("abstract socket: %v\n", cmpErr("reached", err))
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM, 0)
		if err == nil {
			unix.Close(fd)
		}
		fmt.Printf("packet socket: %v\n", cmpErr("made", err))
	}
}

func cmpErr(value any, err error) any {
	var errno syscall.Errno
	switch {
	case errors.As(err, &errno):
		return unix.ErrnoName(errno)
	case err != nil:
		return err
	}
	return value
}

// fileID tells files apart on one machine.
func fileID(name string) string {
	var st unix.Stat_t
	if err := unix.Stat(name, &st); err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%d:%d", st.Dev, st.Ino)
}

// TestReportIsTrue compares every line of the report with what a program in the sandbox
// finds: as root, as an ordinary user, where there are no control groups, and where there
// are no user namespaces.
func TestReportIsTrue(t *testing.T) {
	testenv.Busybox(t)
	place := os.Getenv(placeVar)
	cases := map[string]func(b *box){"no isolation": func(b *box) {
		b.unisolated(t)
		b.Fallback = "the test wants it so"
	}}
	if place != "without user namespaces" {
		testenv.Sandbox(t)
		cases["usual"] = func(*box) {}
		cases["network"] = func(b *box) { b.Network = NetworkHost }
		cases["no filter"] = func(b *box) { b.FilterSyscalls = false }
		cases["new privileges"] = func(b *box) { b.AllowNewPrivileges = true }
		cases["live"] = func(b *box) { b.Live = "/data/store" }
		cases["limits"] = func(b *box) {
			b.Limits = cgroup.Limits{Memory: 512 << 20, Processes: 300, CPUWeight: 50, CPUQuota: 150}
		}
	}
	if testenv.Root() && place == "" {
		cases["root without user namespace"] = func(b *box) {
			b.Users.Namespace, b.Users.InsideUID, b.Users.InsideGID = false, b.Users.OutsideUID, b.Users.OutsideGID
		}
	}
	l := newLauncher(t)
	for name, change := range cases {
		t.Run(name, func(t *testing.T) {
			b := anyBox(t, probe)
			change(b)
			p, r := b.start(t, l)
			saw := map[string]string{}
			for lines := bufio.NewScanner(r); lines.Scan(); {
				if lines.Text() == "end:" {
					break
				}
				name, value, _ := strings.Cut(lines.Text(), ": ")
				saw[name] = value
			}
			files := groupFiles(saw)
			must(t, os.WriteFile(filepath.Join(b.build, "enough"), nil, 0o644))
			if exit := wait(t, p); exit.Code != 0 || saw["root"] == "" {
				t.Fatalf("it ended with %v, and printed %v", exit, saw)
			}
			if name == "network" && place == "" {
				for name, value := range sockets(t, l, change) {
					saw[name] = value
				}
			}
			checkReport(t, b, p.Report(), saw, files)
		})
	}
	if t.Failed() || place != "" {
		return
	}
	if testenv.Root() {
		inPlace(t, "without control groups", &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS})
		testenv.AsOrdinaryUser(t)
		return
	}
	inPlace(t, "without user namespaces", &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER,
		UidMappings: []syscall.SysProcIDMap{{ContainerID: os.Getuid(), HostID: os.Getuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{ContainerID: os.Getgid(), HostID: os.Getgid(), Size: 1}},
		AmbientCaps: []uintptr{unix.CAP_SYS_RESOURCE},
	})
}

// sockets says what becomes of calls that a shell cannot make, in a box that is changed.
func sockets(t *testing.T, l *Launcher, change func(*box)) map[string]string {
	t.Helper()
	name := "kiln-report-" + strconv.Itoa(os.Getpid())
	machine, err := net.Listen("unix", "@"+name)
	must(t, err)
	defer machine.Close()
	b := newBox(t, "").plays(t, "probes", name)
	change(b)
	return fields(b.succeed(t, l))
}

// groupFiles are the limits that the kernel has for the groups of a process.
func groupFiles(saw map[string]string) map[string]string {
	files := map[string]string{}
	for name, controller := range map[string]string{
		"memory.limit_in_bytes": "memory", "memory.max": "", "pids.max": "pids", "cpu.cfs_quota_us": "cpu", "cpu.shares": "cpu", "cpu.max": "", "cpu.weight": "",
	} {
		text, err := os.ReadFile(filepath.Join("/sys/fs/cgroup", controller, saw["cgroup "+controller], name))
		if err == nil {
			files[name] = strings.TrimSpace(string(text))
		}
	}
	return files
}

// either is the value of a file of version 1, or of that of version 2.
func either(files map[string]string, one, two string) string {
	if value, ok := files[one]; ok {
		return value
	}
	return files[two]
}

func checkReport(t *testing.T, b *box, r Report, saw, files map[string]string) {
	t.Helper()
	own := func(name string) string {
		link, err := os.Readlink("/proc/self/ns/" + name)
		must(t, err)
		if link == saw[name] {
			return host
		}
		return private
	}
	limited := false
	for controller, path := range saw {
		limited = limited || strings.HasPrefix(controller, "cgroup ") && strings.Contains(path, "/kiln-")
	}
	readOnly := func() string {
		for _, m := range b.Mounts {
			if m.Kind == mountns.Bind && !m.Optional && saw["read-only "+m.Target] != strconv.FormatBool(!m.Writable) {
				return fmt.Sprintf("%s: %s", m.Target, saw["read-only "+m.Target])
			}
		}
		return "read-only"
	}
	full := b.Isolation == Full
	// What each layer would have to say of what the probe has found.
	probes := map[string]func(l Layer) string{
		"mount namespace": func(Layer) string { return own("mnt") },
		"pid namespace":   func(Layer) string { return own("pid") },
		"ipc namespace":   func(Layer) string { return own("ipc") },
		"uts namespace":   func(Layer) string { return own("uts") },
		"network": func(Layer) string {
			if got := own("net"); got == private && saw["interfaces"] != "lo" {
				return got + " with " + saw["interfaces"]
			}
			return own("net")
		},
		"user namespace": func(l Layer) string {
			uid := strings.Fields(saw["status Uid"])[0]
			outside := fmt.Sprint(b.Users.OutsideUID)
			if own("user") == private && (!strings.HasPrefix(l.Why, uid+":") || !strings.HasPrefix(saw["uid map"], uid+" "+outside+" 1") || !strings.Contains(l.Why, " is "+outside+":")) ||
				own("user") == host && (uid != outside || !strings.Contains(l.Why, "runs as "+outside+":")) {
				return fmt.Sprintf("%q, with %s mapped by %s", l.Why, uid, saw["uid map"])
			}
			return own("user")
		},
		"user mapping": func(l Layer) string {
			if uid := strings.Fields(saw["status Uid"])[0]; own("user") == private || !strings.Contains(l.Why, "runs as "+uid+":") {
				return l.Why + ", and it is " + uid
			}
			return "none"
		},
		"root directory": func(Layer) string {
			if saw["root"] == fileID("/") {
				return host
			}
			return "pivot_root"
		},
		"bind mounts": func(Layer) string {
			if !full {
				return host
			}
			return readOnly()
		},
		"seccomp": func(l Layer) string {
			refused := map[string]bool{"setuid bits": saw["setuid bit"] == "EPERM"}
			if tried, ok := saw["packet socket"]; ok {
				refused["packet"] = tried == "EAFNOSUPPORT"
			}
			for what, is := range refused {
				if strings.Contains(l.Why, what) != is {
					return fmt.Sprintf("%q, and %s: %v", l.Why, what, is)
				}
			}
			return map[string]string{"0": "none", "2": "filter"}[saw["status Seccomp"]]
		},
		"no_new_privs": func(Layer) string { return map[string]string{"0": no, "1": yes}[saw["status NoNewPrivs"]] },
		"capabilities": func(Layer) string {
			for _, set := range []string{"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"} {
				if strings.Trim(saw["status "+set], "0") != "" {
					return host
				}
			}
			return "none"
		},
		"landlock": func(l Layer) string {
			if saw["abstract socket"] == "" {
				return l.InForce // in a network of its own there is no such socket anyway
			}
			return map[string]string{"EPERM": "abstract sockets and signals", "reached": "none"}[saw["abstract socket"]]
		},
		"cgroup": func(Layer) string {
			if limited {
				return private
			}
			return "none"
		},
		"memory limit": func(l Layer) string {
			if either(files, "memory.limit_in_bytes", "memory.max") == fmt.Sprint(b.Limits.Memory) {
				return fmt.Sprintf("%d bytes", b.Limits.Memory)
			}
			return "not enforced"
		},
		"processes limit": func(l Layer) string {
			if files["pids.max"] == fmt.Sprint(b.Limits.Processes) {
				return fmt.Sprint(b.Limits.Processes)
			}
			return "not enforced"
		},
		"cpu limit": func(l Layer) string {
			quota, _, _ := strings.Cut(either(files, "cpu.cfs_quota_us", "cpu.max"), " ")
			weight := either(files, "cpu.shares", "cpu.weight")
			if quota == "150000" && slices.Contains([]string{"512", "50"}, weight) {
				return "weight 50, 1.50 processors"
			}
			return "not enforced"
		},
	}
	for _, layer := range r.Layers {
		probe, ok := probes[layer.Name]
		if !ok {
			t.Errorf("nobody looks whether the report is right about %+v", layer)
			continue
		}
		if got := probe(layer); got != layer.InForce {
			t.Errorf("the report says %+v, and the probe finds %q", layer, got)
		}
		if layer.InForce != layer.Asked && layer.Asked != "not asked for" && layer.Why == "" {
			t.Errorf("nothing says why %+v is less than was asked for", layer)
		}
	}
	level := string(None)
	if full {
		level = "partial"
		if b.Network == NetworkPrivate && !b.AllowNewPrivileges && b.FilterSyscalls && b.Users.Namespace {
			level = "full"
		}
	}
	if r.Level != level {
		t.Errorf("the level is %q, want %q", r.Level, level)
	}
}
