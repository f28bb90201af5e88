package sandbox

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// evaluate runs a filter on a call, as the kernel does. It is a second reading of
// seccomp(2), for the instructions that filters here consist of.
func evaluate(t *testing.T, code []unix.SockFilter, arch, number uint32, args [6]uint64) uint32 {
	t.Helper()
	var data [64]byte
	binary.LittleEndian.PutUint32(data[0:], number)
	binary.LittleEndian.PutUint32(data[4:], arch)
	for i, a := range args {
		binary.LittleEndian.PutUint64(data[16+8*i:], a)
	}
	var a uint32
	for pc := 0; pc < len(code); pc++ {
		i := code[pc]
		branch := i.Jf
		switch i.Code {
		case unix.BPF_LD | unix.BPF_W | unix.BPF_ABS:
			a = binary.LittleEndian.Uint32(data[i.K:])
			continue
		case unix.BPF_ALU | unix.BPF_AND | unix.BPF_K:
			a &= i.K
			continue
		case unix.BPF_JMP | unix.BPF_JA:
			pc += int(i.K)
			continue
		case unix.BPF_RET | unix.BPF_K:
			return i.K
		case unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K:
			if a == i.K {
				branch = i.Jt
			}
		case unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K:
			if a >= i.K {
				branch = i.Jt
			}
		default:
			t.Fatalf("instruction %d has the code %#x", pc, i.Code)
		}
		pc += int(branch)
	}
	t.Fatal("the filter has no end")
	return 0
}

// TestT04T23FilterOnEveryInstructionSet puts every rule to every instruction set
// of every architecture.
func TestT04T23FilterOnEveryInstructionSet(t *testing.T) {
	const everything = rulesSetID | rulesKernel | rulesUserNS
	refuse := func(e unix.Errno) uint32 { return retErrno | uint32(e) }
	calls := []struct {
		call string
		args [6]uint64
		want uint32
		set  ruleSet
	}{
		{"chmod", [6]uint64{1, 0o4755}, refuse(unix.EPERM), rulesSetID},
		{"chmod", [6]uint64{1, 0o2755}, refuse(unix.EPERM), rulesSetID},
		{"chmod", [6]uint64{1, 0o1777}, retAllow, rulesSetID},
		{"chmod", [6]uint64{0o4755, 0o755}, retAllow, rulesSetID},
		{"fchmod", [6]uint64{1, 0o104755}, refuse(unix.EPERM), rulesSetID},
		{"fchmod", [6]uint64{1, 0xdead_0000_0000 | 0o4000}, refuse(unix.EPERM), rulesSetID},
		{"fchmodat", [6]uint64{1, 0o4755, 0o2000}, refuse(unix.EPERM), rulesSetID},
		{"fchmodat", [6]uint64{1, 0o4755, 0o755}, retAllow, rulesSetID},
		{"fchmodat2", [6]uint64{1, 1, 0o6755}, refuse(unix.EPERM), rulesSetID},
		{"fchmodat2", [6]uint64{1, 1, 0o755}, retAllow, rulesSetID},
		{"setxattr", [6]uint64{}, refuse(unix.ENOTSUP), rulesSetID},
		{"lsetxattr", [6]uint64{}, refuse(unix.ENOTSUP), rulesSetID},
		{"fsetxattr", [6]uint64{}, refuse(unix.ENOTSUP), rulesSetID},
		{"getxattr", [6]uint64{}, refuse(unix.ENOTSUP), rulesSetID},
		{"lgetxattr", [6]uint64{}, refuse(unix.ENOTSUP), rulesSetID},
		{"fgetxattr", [6]uint64{}, refuse(unix.ENOTSUP), rulesSetID},
		{"listxattr", [6]uint64{}, refuse(unix.ENOTSUP), rulesSetID},
		{"llistxattr", [6]uint64{}, refuse(unix.ENOTSUP), rulesSetID},
		{"flistxattr", [6]uint64{}, refuse(unix.ENOTSUP), rulesSetID},
		{"setxattrat", [6]uint64{}, refuse(unix.ENOTSUP), rulesSetID},
		{"io_uring_setup", [6]uint64{8}, refuse(unix.ENOSYS), rulesKernel},
		{"socket", [6]uint64{unix.AF_PACKET, unix.SOCK_RAW}, refuse(unix.EAFNOSUPPORT), rulesKernel},
		{"socket", [6]uint64{unix.AF_PACKET, unix.SOCK_DGRAM}, refuse(unix.EAFNOSUPPORT), rulesKernel},
		{"socket", [6]uint64{unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_NETFILTER}, refuse(unix.EAFNOSUPPORT), rulesKernel},
		{"socket", [6]uint64{unix.AF_NETLINK, unix.SOCK_RAW | unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE}, retAllow, rulesKernel},
		{"socket", [6]uint64{unix.AF_INET, unix.SOCK_RAW | unix.SOCK_CLOEXEC, 1}, refuse(unix.EPERM), rulesKernel},
		{"socket", [6]uint64{unix.AF_INET6, unix.SOCK_RAW, 1}, refuse(unix.EPERM), rulesKernel},
		// An old name of AF_PACKET (packet(7)).
		{"socket", [6]uint64{unix.AF_INET, unix.SOCK_PACKET, 1}, refuse(unix.EPERM), rulesKernel},
		{"socket", [6]uint64{unix.AF_INET, unix.SOCK_STREAM}, retAllow, rulesKernel},
		{"socket", [6]uint64{unix.AF_UNIX, unix.SOCK_SEQPACKET | unix.SOCK_NONBLOCK}, retAllow, rulesKernel},
		{"unshare", [6]uint64{unix.CLONE_NEWUSER}, refuse(unix.EPERM), rulesUserNS},
		{"unshare", [6]uint64{unix.CLONE_NEWUSER | unix.CLONE_NEWNS}, refuse(unix.EPERM), rulesUserNS},
		{"unshare", [6]uint64{unix.CLONE_FS}, retAllow, rulesUserNS},
		{"clone", [6]uint64{unix.CLONE_NEWUSER | uint64(unix.SIGCHLD)}, refuse(unix.EPERM), rulesUserNS},
		{"clone", [6]uint64{unix.CLONE_VM | unix.CLONE_VFORK | uint64(unix.SIGCHLD)}, retAllow, rulesUserNS},
		{"clone3", [6]uint64{1, 88}, refuse(unix.ENOSYS), rulesUserNS},
	}
	for arch, abis := range abisOf {
		for sets := range everything + 1 {
			code := filter(abis, sets)
			if len(code) > 4096 {
				t.Fatalf("%s: %d instructions are more than the kernel takes", arch, len(code))
			}
			for _, a := range abis {
				for _, c := range calls {
					number, ok := a.numbers[c.call]
					if !ok {
						if c.call != "chmod" || a.name != "aarch64" {
							t.Errorf("%s has no number for %s", a.name, c.call)
						}
						continue
					}
					if a.x32 {
						number |= x32Bit
					}
					want := c.want
					if sets&c.set == 0 {
						want = retAllow
					}
					if got := evaluate(t, code, a.audit, number, c.args); got != want {
						t.Errorf("%s, rules %03b: %s(%#x) gives %#x, want %#x", a.name, sets, c.call, c.args, got, want)
					}
				}
				// What no rule names is allowed, first and last numbers included.
				for _, number := range []uint32{0, 1, 511, 1000} {
					if a.x32 {
						number |= x32Bit
					}
					if got := evaluate(t, code, a.audit, number, [6]uint64{}); got != retAllow && !named(a, number&^x32Bit) {
						t.Errorf("%s: call %d gives %#x", a.name, number, got)
					}
				}
			}
			if got := evaluate(t, code, unix.AUDIT_ARCH_PPC64LE, 15, [6]uint64{}); got != retKill {
				t.Errorf("%s: an unknown instruction set gives %#x", arch, got)
			}
		}
	}
}

func named(a abi, number uint32) bool {
	for _, n := range a.numbers {
		if n == number {
			return true
		}
	}
	return false
}

// TestNumbersAreTheKernels compares with the numbers of the syscall package for
// the architecture that the test runs on.
func TestNumbersAreTheKernels(t *testing.T) {
	native := abisOf[runtime.GOARCH][0]
	for call, number := range map[string]uint32{
		"fchmod": unix.SYS_FCHMOD, "fchmodat": unix.SYS_FCHMODAT, "fchmodat2": unix.SYS_FCHMODAT2,
		"setxattr": unix.SYS_SETXATTR, "lsetxattr": unix.SYS_LSETXATTR, "fsetxattr": unix.SYS_FSETXATTR,
		"getxattr": unix.SYS_GETXATTR, "lgetxattr": unix.SYS_LGETXATTR, "fgetxattr": unix.SYS_FGETXATTR,
		"listxattr": unix.SYS_LISTXATTR, "llistxattr": unix.SYS_LLISTXATTR, "flistxattr": unix.SYS_FLISTXATTR,
		"setxattrat": unix.SYS_SETXATTRAT, "getxattrat": unix.SYS_GETXATTRAT, "listxattrat": unix.SYS_LISTXATTRAT,
		"io_uring_setup": unix.SYS_IO_URING_SETUP, "socket": unix.SYS_SOCKET, "unshare": unix.SYS_UNSHARE,
		"clone": unix.SYS_CLONE, "clone3": unix.SYS_CLONE3,
	} {
		if native.numbers[call] != number {
			t.Errorf("%s is %d, want %d", call, native.numbers[call], number)
		}
	}
}

// TestT04T23FilterInForce makes the calls in a sandbox, by every way into the
// kernel that the processor has.
func TestT04T23FilterInForce(t *testing.T) {
	everyone(t, func(t *testing.T) {
		l, ways := newLauncher(t), ways(t)
		for _, c := range []struct {
			name   string
			change func(*box)
			want   map[string]string // "way call" to errno
		}{
			{"usual", func(*box) {}, map[string]string{
				"chmod u+s": "EPERM", "fchmod u+s": "EPERM", "fchmodat g+s": "EPERM", "fchmodat2 u+s": "EPERM", "chmod 0700": "",
				"setxattr": "ENOTSUP", "getxattr": "ENOTSUP", "listxattr": "ENOTSUP",
				"packet socket": "EAFNOSUPPORT", "netfilter socket": "EAFNOSUPPORT", "raw socket": "EPERM",
				"route socket": "", "stream socket": "", "io_uring": "ENOSYS",
				"user namespace by unshare": "EPERM", "user namespace by clone3": "ENOSYS", "user namespace by clone": "EPERM",
				"clone": "",
			}},
			{"no filter", func(b *box) { b.FilterSyscalls = false }, map[string]string{
				"chmod u+s": "", "fchmod u+s": "", "fchmodat g+s": "", "fchmodat2 u+s": "", "setxattr": "",
			}},
			{"user namespaces", func(b *box) { b.AllowUserNS = true }, map[string]string{
				"chmod u+s": "EPERM", "user namespace by clone": "", "packet socket": "EAFNOSUPPORT",
			}},
		} {
			t.Run(c.name, func(t *testing.T) {
				b := newBox(t, "").plays(t, "calls", ways...)
				c.change(b)
				got := map[string]string{}
				lines := bufio.NewScanner(strings.NewReader(b.succeed(t, l)))
				for lines.Scan() {
					way, rest, _ := strings.Cut(lines.Text(), ": ")
					call, errno, _ := strings.Cut(rest, " = ")
					got[way+" "+call] = errno
				}
				for _, way := range ways {
					for call, want := range c.want {
						errno, made := got[way+" "+call]
						// A kernel without x32 says so when the filter has nothing to say.
						missing := way == "x32" && errno == "ENOSYS" && want == ""
						if way != "native" && strings.HasPrefix(call, "user namespace by clone") && want == "" || call == "clone" && way != "native" {
							continue // not tried: it would be a fork
						}
						if !made || errno != want && !missing {
							t.Errorf("%s: %s gives %q (%v), want %q", way, call, errno, made, want)
						}
					}
				}
			})
		}
	})
}

// ways names the ways into the kernel that this machine has, in the order of
// abisOf. The 32-bit one is the last: some virtual machines fault there.
func ways(t testing.TB) []string {
	if runtime.GOARCH != "amd64" {
		return []string{"native"}
	}
	try := exec.Command("/proc/self/exe")
	try.Env = append(os.Environ(), insideVar+"=int80")
	if err := try.Run(); err != nil {
		t.Logf("this machine has no 32-bit system calls that could be filtered: %v", err)
		return []string{"native", "x32"}
	}
	return []string{"native", "x32", "i386"}
}

func init() {
	roles["calls"] = calls
	roles["int80"] = func() { int80(20, [5]uintptr{}) } // getpid
}

// calls makes calls that filters may refuse, in the ways that its arguments name,
// and prints what came of each.
func calls() {
	ways := os.Args[1:]
	fd, err := unix.Open("/build/file", unix.O_CREAT|unix.O_RDWR, 0o600)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	// 32-bit calls need their strings below 4 GiB.
	memory, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON|map32bit)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	at := func(offset int, text string) uintptr {
		copy(memory[offset:], text+"\x00")
		return uintptr(unsafe.Pointer(&memory[offset]))
	}
	path, attribute, value := at(0, "/build/file"), at(64, "user.test"), at(128, "value")
	cloneArgs := uintptr(unsafe.Pointer(&memory[256]))
	binary.NativeEndian.PutUint64(memory[256:], unix.CLONE_NEWUSER)
	binary.NativeEndian.PutUint64(memory[256+32:], uint64(unix.SIGCHLD))
	here := uintptr(0)
	here -= 100
	list := []struct {
		name, call string
		args       [5]uintptr
		forks      bool
	}{
		{"chmod u+s", "chmod", [5]uintptr{path, 0o4700}, false},
		{"fchmod u+s", "fchmod", [5]uintptr{uintptr(fd), 0o4700}, false},
		{"fchmodat g+s", "fchmodat", [5]uintptr{here, path, 0o2700}, false},
		{"fchmodat2 u+s", "fchmodat2", [5]uintptr{here, path, 0o4700, 0}, false},
		{"chmod 0700", "chmod", [5]uintptr{path, 0o700}, false},
		{"setxattr", "setxattr", [5]uintptr{path, attribute, value, 5, 0}, false},
		{"getxattr", "getxattr", [5]uintptr{path, attribute, value, 5}, false},
		{"listxattr", "listxattr", [5]uintptr{path, value, 64}, false},
		{"packet socket", "socket", [5]uintptr{unix.AF_PACKET, unix.SOCK_RAW, 0}, false},
		{"netfilter socket", "socket", [5]uintptr{unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_NETFILTER}, false},
		{"raw socket", "socket", [5]uintptr{unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP}, false},
		{"route socket", "socket", [5]uintptr{unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE}, false},
		{"stream socket", "socket", [5]uintptr{unix.AF_INET, unix.SOCK_STREAM, 0}, false},
		{"io_uring", "io_uring_setup", [5]uintptr{1, value}, false},
		{"user namespace by unshare", "unshare", [5]uintptr{unix.CLONE_NEWUSER}, false},
		{"user namespace by clone3", "clone3", [5]uintptr{cloneArgs, 88}, true},
		{"user namespace by clone", "clone", [5]uintptr{unix.CLONE_NEWUSER | uintptr(unix.SIGCHLD)}, true},
		{"clone", "clone", [5]uintptr{uintptr(unix.SIGCHLD)}, true},
	}
	for i, a := range abisOf[runtime.GOARCH] {
		if i >= len(ways) {
			break
		}
		way := ways[i]
		for _, c := range list {
			number, ok := a.numbers[c.call]
			if !ok { // arm64 has no chmod
				fmt.Printf("%s: %s = %s\n", way, c.name, map[bool]string{true: "EPERM"}[strings.Contains(c.name, "+s")])
				continue
			}
			if c.forks && way != "native" && c.name == "clone" {
				continue
			}
			var errno unix.Errno
			switch {
			case way == "i386":
				errno = int80(uintptr(number), c.args)
			case way == "x32":
				_, _, errno = unix.RawSyscall6(uintptr(number|x32Bit), c.args[0], c.args[1], c.args[2], c.args[3], c.args[4], 0)
			default:
				errno = tryCall(uintptr(number), c.args)
			}
			fmt.Printf("%s: %s = %s\n", way, c.name, unix.ErrnoName(errno))
		}
	}
}

// tryCall makes a call that may be a fork; the child ends at once.
//
//go:nosplit
//go:norace
func tryCall(number uintptr, args [5]uintptr) unix.Errno {
	r, _, errno := unix.RawSyscall6(number, args[0], args[1], args[2], args[3], args[4], 0)
	if errno == 0 && r == 0 && (number == unix.SYS_CLONE || number == unix.SYS_CLONE3) {
		for {
			unix.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
		}
	}
	return errno
}
