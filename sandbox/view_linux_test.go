package sandbox

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/kilnbuild/kiln/internal/testenv"
	"golang.org/x/sys/unix"
)

// look prints what a process can find out about itself, section by section.
// What it says of itself is read from process 1, which is the script's shell.
const look = `
echo '== status';  cat /proc/1/status
echo '== mounts';  cat /proc/self/mountinfo
echo '== limits';  cat /proc/1/limits
echo '== files';   ls -l /proc/1/fd 2>/dev/null | grep ' -> ' | sed 's/.* \([0-9]* ->\)/\1/'
echo '== pids';    ls /proc | grep '^[0-9]*$'
echo '== cwd';     pwd
echo '== uname';   uname -n; cat /proc/sys/kernel/domainname; uname -m; uname -r
echo '== person';  cat /proc/self/personality
echo '== net';     cat /proc/net/dev | tail -n +3 | sed 's/:.*//'; ip addr show lo 2>/dev/null | grep -c 'UP'
echo '== root';    ls -a /
echo '== dev';     ls /dev
echo '== stat';    cat /proc/1/stat
echo '== keys';    cat /proc/keys
echo '== tty';     tty || true
`

// sections takes what look printed apart.
func sections(text string) map[string]string {
	m := map[string]string{}
	for _, part := range strings.Split("\n"+text, "\n== ")[1:] {
		name, body, _ := strings.Cut(part, "\n")
		m[name] = strings.TrimSuffix(body, "\n") + "\n"
	}
	return m
}

// TestT30FixedSurroundings holds the list of everything that a process could
// otherwise learn about the machine and about who started it.
func TestT30FixedSurroundings(t *testing.T) {
	everyone(t, func(t *testing.T) {
		// Nothing of this must come through.
		old := unix.Umask(0o077)
		defer unix.Umask(old)

		b := newBox(t, look)
		saw := sections(b.succeed(t, newLauncher(t)))
		status := fields(saw["status"])
		for name, want := range map[string]string{
			"Uid": "1000 1000 1000 1000", "Gid": "100 100 100 100", "Groups": "", "Umask": "0022",
			"NSpid": "1", "NSpgid": "1", "NSsid": "1", "PPid": "0",
			"CapInh": "0000000000000000", "CapPrm": "0000000000000000", "CapEff": "0000000000000000",
			"CapBnd": "0000000000000000", "CapAmb": "0000000000000000",
			"NoNewPrivs": "1", "Seccomp": "2", "Seccomp_filters": "1",
			"SigBlk": "0000000000000000",
		} {
			if status[name] != want {
				t.Errorf("%s is %q, want %q", name, status[name], want)
			}
		}
		for section, want := range map[string]string{
			"pids":  "1\n",
			"cwd":   "/build\n",
			"files": "0 -> /dev/null\n",
			"root":  ".\n..\nbin\nbuild\ndata\ndev\netc\nproc\ntmp\n",
			"dev":   "fd\nfull\nnull\nptmx\npts\nrandom\nshm\nstderr\nstdin\nstdout\ntty\nurandom\nzero\n",
			"tty":   "not a tty\n",
		} {
			if section == "pids" || section == "files" {
				// The shell's children and pipes come and go.
				if !strings.HasPrefix(saw[section], want) {
					t.Errorf("%s begins %q, want %q", section, saw[section], want)
				}
				continue
			}
			if saw[section] != want {
				t.Errorf("%s are %q, want %q", section, saw[section], want)
			}
		}
		if got, want := strings.Fields(saw["net"]), []string{"lo"}; got[0] != want[0] {
			t.Errorf("network interfaces are %q, want %q", got, want)
		}
		if names := strings.Fields(saw["uname"]); names[0] != "localhost" || names[1] != "(none)" {
			t.Errorf("the names are %q", names)
		}
		b.nothingLeft(t)
	})
}

// TestT29NoMachineInProc looks for the machine's processes and devices.
func TestT29NoMachineInProc(t *testing.T) {
	everyone(t, func(t *testing.T) {
		l := newLauncher(t)
		b := newBox(t, `
			[ $$ = 1 ] || echo "I am process $$"
			n=$(ls /proc | grep -c '^[0-9]*$'); [ $n -le 5 ] || echo "$n processes are in /proc"
			[ -e /sys ] && echo "there is /sys"
			[ -e /proc/`+strconv.Itoa(os.Getpid())+` ] && echo "the test is in /proc"
			kill -0 `+strconv.Itoa(os.Getpid())+` 2>/dev/null && echo "the test can be sent signals"
			readlink /proc/1/root | grep -qx / || echo "/ is not the root"
			cat /proc/1/environ | tr '\0' '\n' | grep -v -e ^PATH= -e ^HOME=
			ls /proc/1/task/1/children >/dev/null
			cat /proc/1/mountinfo | grep -e `+"'/var'"+` -e '/sys '
			[ -e /run ] && echo "there is /run"
			exit 0`)
		if out := b.succeed(t, l); out != "" {
			t.Errorf("what should not be seen:\n%s", out)
		}
	})
}

// TestT29PtraceOfAnotherBuild has one user in two sandboxes: neither sees the
// other, or can signal it.
func TestT29PtraceOfAnotherBuild(t *testing.T) {
	everyone(t, func(t *testing.T) {
		l := newLauncher(t)
		victim := newBox(t, "echo ready; exec sleep 60")
		p, out := victim.start(t, l)
		defer wait(t, p)
		defer p.Kill()
		if _, err := out.Read(make([]byte, 6)); err != nil {
			t.Fatal(err)
		}
		thief := newBox(t, "for p in /proc/[0-9]*; do tr '\\0' ' ' < $p/cmdline; echo; done | grep -x 'sleep 60 '; kill -9 -1 2>/dev/null; echo alive")
		thief.belongsTo(t, victim.Users.OutsideUID, victim.Users.OutsideGID)
		if got := thief.succeed(t, l); got != "alive\n" {
			t.Errorf("the thief printed %q", got)
		}
		select {
		case <-p.exited:
			t.Error("the victim is gone")
		default:
		}
	})
}

// TestLimits compares resource limits with those of a program that the system
// starts: whatever Go and kiln do to their own must not show.
func TestLimits(t *testing.T) {
	everyone(t, func(t *testing.T) {
		// A shell is started with the limits that this process was started with:
		// package os/exec gives them back.
		out, err := exec.Command("/bin/sh", "-c", "cat /proc/self/limits").Output()
		must(t, err)
		want := limits(string(out))
		want["Max core file size"] = "0 unlimited bytes"
		if hard := strings.Fields(want["Max core file size"]); hard[1] != "unlimited" {
			t.Skip("core files are limited hard")
		}
		l := newLauncher(t)
		for name, b := range map[string]*box{
			"isolated":   newBox(t, "cat /proc/self/limits"),
			"unisolated": newBox(t, "cat /proc/self/limits").unisolated(t),
		} {
			if d := cmp.Diff(want, limits(b.succeed(t, l))); d != "" {
				t.Errorf("limits, %s (-want +got):\n%s", name, d)
			}
		}
	})
}

// limits reads /proc/self/limits.
func limits(text string) map[string]string {
	m := map[string]string{}
	for line := range strings.Lines(text) {
		if len(line) > 26 {
			m[strings.TrimSpace(line[:26])] = strings.Join(strings.Fields(line[26:]), " ")
		}
	}
	return m
}

// TestInheritedSignalsAndDescriptors starts a launcher from a process that
// ignores signals and leaks descriptors: builders get neither.
func TestInheritedSignalsAndDescriptors(t *testing.T) {
	everyone(t, func(t *testing.T) {
		testenv.Busybox(t)
		self, err := os.Open("/proc/self/exe")
		must(t, err)
		defer self.Close()
		// trap '' ignores; descriptor 9 is left open on purpose.
		cmd := exec.Command("/bin/sh", "-c", `trap '' HUP INT QUIT TERM USR1 PIPE CHLD; exec 9</dev/null; exec /proc/self/fd/3 "$@"`, "sh")
		cmd.ExtraFiles = []*os.File{self}
		cmd.Env = append(os.Environ(), insideVar+"=inherits")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		for _, line := range strings.Split(strings.TrimSpace(string(out)), "\n") {
			switch {
			case strings.HasPrefix(line, "SigIgn:"), strings.HasPrefix(line, "SigBlk:"), strings.HasPrefix(line, "SigCgt:"):
				if mask := strings.Fields(line)[1]; mask != "0000000000000000" {
					t.Errorf("the builder has %s", line)
				}
			case strings.HasPrefix(line, "fd "):
				if n, _ := strconv.Atoi(strings.Fields(line)[1]); n > 3 { // 3 is ls's own
					t.Errorf("the builder has descriptor %s", line)
				}
			}
		}
		if !strings.Contains(string(out), "SigIgn:") || !strings.Contains(string(out), "fd 0") {
			t.Errorf("it printed\n%s", out)
		}
	})
}

func init() {
	roles["inherits"] = func() {
		t := &miniT{}
		for _, isolated := range []bool{true, false} {
			// Programs that are executed directly: a shell sets signals itself.
			for _, args := range [][]string{{"grep", "Sig", "/proc/self/status"}, {"ls", "/proc/self/fd"}} {
				l := NewLauncher()
				b := newBox(t, "")
				if isolated {
					b.Path = "/bin/busybox"
				} else {
					b.unisolated(t)
				}
				b.Args = args
				out := b.succeed(t, l)
				if args[0] == "ls" {
					out = "fd " + strings.ReplaceAll(strings.TrimSpace(out), "\n", "\nfd ") + "\n"
				}
				fmt.Print(out)
				must(t, l.Close())
			}
		}
		t.end()
	}
}
