package sandbox

import "golang.org/x/sys/unix"

// The numbers of the calls in the rules, for each instruction set. They are part
// of the kernel's contract with programs and do not change. Calls with the same
// number everywhere came after Linux 5.1.
var everywhere = map[string]uint32{
	"fchmodat2": 452, "setxattrat": 463, "getxattrat": 464, "listxattrat": 465,
	"clone3": 435, "io_uring_setup": 425,
}

func numbers(own map[string]uint32) map[string]uint32 {
	for call, n := range everywhere {
		own[call] = n
	}
	return own
}

var (
	abiX8664 = abi{name: "x86_64", audit: unix.AUDIT_ARCH_X86_64, numbers: numbersX8664}
	// x32 uses the numbers of x86_64, with a bit set. The calls in the rules are
	// not among the few that have numbers of their own there.
	abiX32  = abi{name: "x32", audit: unix.AUDIT_ARCH_X86_64, x32: true, numbers: numbersX8664}
	abiI386 = abi{name: "i386", audit: unix.AUDIT_ARCH_I386, numbers: numbers(map[string]uint32{
		"chmod": 15, "fchmod": 94, "fchmodat": 306,
		"setxattr": 226, "lsetxattr": 227, "fsetxattr": 228, "getxattr": 229, "lgetxattr": 230, "fgetxattr": 231,
		"listxattr": 232, "llistxattr": 233, "flistxattr": 234,
		"clone": 120, "unshare": 310, "socket": 359,
	})}
	abiARM64 = abi{name: "aarch64", audit: unix.AUDIT_ARCH_AARCH64, numbers: numbers(map[string]uint32{
		"fchmod": 52, "fchmodat": 53,
		"setxattr": 5, "lsetxattr": 6, "fsetxattr": 7, "getxattr": 8, "lgetxattr": 9, "fgetxattr": 10,
		"listxattr": 11, "llistxattr": 12, "flistxattr": 13,
		"clone": 220, "unshare": 97, "socket": 198,
	})}
	abiARM = abi{name: "arm", audit: unix.AUDIT_ARCH_ARM, numbers: numbers(map[string]uint32{
		"chmod": 15, "fchmod": 94, "fchmodat": 333,
		"setxattr": 226, "lsetxattr": 227, "fsetxattr": 228, "getxattr": 229, "lgetxattr": 230, "fgetxattr": 231,
		"listxattr": 232, "llistxattr": 233, "flistxattr": 234,
		"clone": 120, "unshare": 337, "socket": 281,
	})}
)

var numbersX8664 = numbers(map[string]uint32{
	"chmod": 90, "fchmod": 91, "fchmodat": 268,
	"setxattr": 188, "lsetxattr": 189, "fsetxattr": 190, "getxattr": 191, "lgetxattr": 192, "fgetxattr": 193,
	"listxattr": 194, "llistxattr": 195, "flistxattr": 196,
	"clone": 56, "unshare": 272, "socket": 41,
})

// abisOf are the instruction sets that a kernel for an architecture runs.
var abisOf = map[string][]abi{
	"amd64": {abiX8664, abiX32, abiI386},
	"arm64": {abiARM64, abiARM},
}
