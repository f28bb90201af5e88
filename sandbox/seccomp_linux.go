package sandbox

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// The system call filter, as data. Everything is allowed but what a rule says;
// the rules hold for every instruction set that the kernel can run beside its
// own, since a 32-bit call would otherwise go round a 64-bit filter.

// rule refuses a call, in all its cases or when one argument is as said.
type rule struct {
	call  string
	errno unix.Errno
	when  []condition // any of them; none means always
	only  ruleSet
}

// ruleSet says which rules are in force.
type ruleSet uint8

const (
	rulesSetID  ruleSet = 1 << iota // setuid and setgid bits, extended attributes
	rulesKernel                     // parts of the kernel that builders have no business in
	rulesUserNS                     // user namespaces
)

// condition compares the lower half of an argument.
type condition struct {
	arg  int
	mask uint32 // compared are the bits of this mask
	want uint32 // equal to this
	not  bool   // turned round
	and  *condition
}

func setIDBits(arg int) []condition {
	return []condition{{arg: arg, mask: unix.S_ISUID, want: unix.S_ISUID}, {arg: arg, mask: unix.S_ISGID, want: unix.S_ISGID}}
}

var allBits = ^uint32(0)

// rules is the whole filter.
var rules = []rule{
	{call: "chmod", errno: unix.EPERM, when: setIDBits(1), only: rulesSetID},
	{call: "fchmod", errno: unix.EPERM, when: setIDBits(1), only: rulesSetID},
	{call: "fchmodat", errno: unix.EPERM, when: setIDBits(2), only: rulesSetID},
	{call: "fchmodat2", errno: unix.EPERM, when: setIDBits(2), only: rulesSetID},
	{call: "getxattr", errno: unix.ENOTSUP, only: rulesSetID},
	{call: "lgetxattr", errno: unix.ENOTSUP, only: rulesSetID},
	{call: "fgetxattr", errno: unix.ENOTSUP, only: rulesSetID},
	{call: "setxattr", errno: unix.ENOTSUP, only: rulesSetID},
	{call: "lsetxattr", errno: unix.ENOTSUP, only: rulesSetID},
	{call: "fsetxattr", errno: unix.ENOTSUP, only: rulesSetID},
	{call: "listxattr", errno: unix.ENOTSUP, only: rulesSetID},
	{call: "llistxattr", errno: unix.ENOTSUP, only: rulesSetID},
	{call: "flistxattr", errno: unix.ENOTSUP, only: rulesSetID},
	{call: "setxattrat", errno: unix.ENOTSUP, only: rulesSetID},
	{call: "getxattrat", errno: unix.ENOTSUP, only: rulesSetID},
	{call: "listxattrat", errno: unix.ENOTSUP, only: rulesSetID},

	{call: "io_uring_setup", errno: unix.ENOSYS, only: rulesKernel},
	// The families whose parsers have been a way into the kernel. The C library
	// lists interfaces over NETLINK_ROUTE, which stays.
	{call: "socket", errno: unix.EAFNOSUPPORT, only: rulesKernel, when: []condition{
		{arg: 0, mask: allBits, want: unix.AF_PACKET},
		{arg: 0, mask: allBits, want: unix.AF_NETLINK, and: &condition{arg: 2, mask: allBits, want: unix.NETLINK_ROUTE, not: true}},
	}},
	{call: "socket", errno: unix.EPERM, only: rulesKernel, when: []condition{{arg: 1, mask: 0xf, want: unix.SOCK_RAW,
		and: &condition{arg: 0, mask: allBits, want: unix.AF_NETLINK, not: true}}}},

	// The packet sockets of before there was AF_PACKET, in any family.
	{call: "socket", errno: unix.EPERM, only: rulesKernel, when: []condition{{arg: 1, mask: 0xf, want: unix.SOCK_PACKET}}},
	// 32-bit programs can make sockets by socketcall as well, whose arguments lie in
	// memory. It stays, since old C libraries have no other way. What it lets
	// through is netlink: the rest takes a capability that nobody has here.

	{call: "unshare", errno: unix.EPERM, only: rulesUserNS, when: []condition{{arg: 0, mask: unix.CLONE_NEWUSER, want: unix.CLONE_NEWUSER}}},
	{call: "clone", errno: unix.EPERM, only: rulesUserNS, when: []condition{{arg: 0, mask: unix.CLONE_NEWUSER, want: unix.CLONE_NEWUSER}}},
	// clone3 has its flags in memory, where a filter cannot look; told that it does
	// not exist, C libraries use clone.
	{call: "clone3", errno: unix.ENOSYS, only: rulesUserNS},
}

// abi is an instruction set with its numbers of the calls in the rules.
type abi struct {
	name    string
	audit   uint32
	x32     bool // the calls are marked by a bit in their number
	numbers map[string]uint32
}

const x32Bit = 0x40000000

// Offsets in struct seccomp_data, and the instructions of classic BPF that are
// used (bpf(4), seccomp(2)).
const (
	offNumber = 0
	offArch   = 4
	offArgs   = 16

	bpfLoad    = unix.BPF_LD | unix.BPF_W | unix.BPF_ABS
	bpfJumpEq  = unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K
	bpfJumpGe  = unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K
	bpfAnd     = unix.BPF_ALU | unix.BPF_AND | unix.BPF_K
	bpfReturn  = unix.BPF_RET | unix.BPF_K
	bpfForward = unix.BPF_JMP | unix.BPF_JA

	retAllow = 0x7fff0000
	retErrno = 0x00050000
	retKill  = 0x80000000
)

// filter compiles the rules for the instruction sets of one kernel.
func filter(abis []abi, sets ruleSet) []unix.SockFilter {
	var f bpf
	for _, a := range abis {
		f.abi(a, sets)
	}
	// Another instruction set than these would be unfiltered.
	return append(f.code, unix.SockFilter{Code: bpfReturn, K: retKill})
}

type bpf struct{ code []unix.SockFilter }

func (f *bpf) add(code uint16, k uint32, jt, jf uint8) int {
	f.code = append(f.code, unix.SockFilter{Code: code, Jt: jt, Jf: jf, K: k})
	return len(f.code) - 1
}

// abi appends the rules for one instruction set: skipped as a whole for calls of
// another one, ended by an answer for its own.
func (f *bpf) abi(a abi, sets ruleSet) {
	f.add(bpfLoad, offArch, 0, 0)
	f.add(bpfJumpEq, a.audit, 1, 0)
	skipArch := f.add(bpfForward, 0, 0, 0)
	f.add(bpfLoad, offNumber, 0, 0)
	skipX32 := -1
	if a.x32 {
		f.add(bpfJumpGe, x32Bit, 1, 0)
		skipX32 = f.add(bpfForward, 0, 0, 0)
	} else if a.audit == unix.AUDIT_ARCH_X86_64 {
		f.add(bpfJumpGe, x32Bit, 0, 1)
		skipX32 = f.add(bpfForward, 0, 0, 0)
	}
	for _, r := range rules {
		number, known := a.numbers[r.call]
		if !known || r.only&sets == 0 {
			continue
		}
		if a.x32 {
			number |= x32Bit
		}
		f.rule(r, number)
	}
	f.add(bpfReturn, retAllow, 0, 0)
	for _, at := range []int{skipArch, skipX32} {
		if at >= 0 {
			f.code[at].K = uint32(len(f.code) - at - 1)
		}
	}
}

// rule appends one rule. The call's number is loaded before and after it.
func (f *bpf) rule(r rule, number uint32) {
	f.add(bpfJumpEq, number, 1, 0)
	skip := f.add(bpfForward, 0, 0, 0)
	answer := unix.SockFilter{Code: bpfReturn, K: retErrno | uint32(r.errno)}
	if len(r.when) == 0 {
		f.code = append(f.code, answer)
	}
	for _, c := range r.when {
		var misses []int
		for part := &c; part != nil; part = part.and {
			f.add(bpfLoad, offArgs+uint32(part.arg)*8+lowHalf, 0, 0)
			if part.mask != allBits {
				f.add(bpfAnd, part.mask, 0, 0)
			}
			hit, miss := uint8(1), uint8(0)
			if part.not {
				hit, miss = 0, 1
			}
			f.add(bpfJumpEq, part.want, hit, miss)
			misses = append(misses, f.add(bpfForward, 0, 0, 0))
		}
		f.code = append(f.code, answer)
		for _, at := range misses {
			f.code[at].K = uint32(len(f.code) - at - 1)
		}
	}
	f.add(bpfLoad, offNumber, 0, 0)
	f.code[skip].K = uint32(len(f.code) - skip - 1)
}

// lowHalf is where the lower half of an argument is: every machine that is
// supported is little-endian.
const lowHalf = 0

// encodeFilter gives the memory of the filter's instructions.
func encodeFilter(code []unix.SockFilter) []byte {
	out := make([]byte, 0, len(code)*8)
	for _, i := range code {
		out = binary.NativeEndian.AppendUint16(out, i.Code)
		out = append(out, i.Jt, i.Jf)
		out = binary.NativeEndian.AppendUint32(out, i.K)
	}
	return out
}
