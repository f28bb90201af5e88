package launcher

import (
	"syscall"
	"unsafe"
)

// link checks an encoded program and puts addresses and descriptors into it. It
// trusts no number in it: whoever can talk to the launcher shall not be able to
// make it read or write outside of the program's memory.
func link(mem []byte, slots func(slot uint64) (fd uint64, ok bool)) (records []Record, ok bool) {
	if uintptr(len(mem)) < unsafe.Sizeof(Header{}) {
		return nil, false
	}
	base := unsafe.Pointer(&mem[0])
	h := (*Header)(base)
	if h.Magic != Magic || h.Count == 0 || h.Count > MaxRecords || h.RelocCount > MaxProgramSize || h.ArenaSize > MaxProgramSize {
		return nil, false
	}
	recordsAt := uint64(unsafe.Sizeof(Header{}))
	relocsAt := recordsAt + h.Count*uint64(unsafe.Sizeof(Record{}))
	arenaAt := relocsAt + h.RelocCount*8
	if arenaAt+h.ArenaSize != uint64(len(mem)) {
		return nil, false
	}
	arena := uint64(uintptr(base)) + arenaAt
	for _, at := range unsafe.Slice((*uint64)(unsafe.Add(base, relocsAt)), h.RelocCount) {
		if at%8 != 0 || h.ArenaSize < 8 || at > h.ArenaSize-8 {
			return nil, false
		}
		word := (*uint64)(unsafe.Add(base, arenaAt+at))
		if *word >= h.ArenaSize {
			return nil, false
		}
		*word += arena
	}
	records = unsafe.Slice((*Record)(unsafe.Add(base, recordsAt)), h.Count)
	for i := range records {
		r := &records[i]
		var kinds uint64
		for a := range MaxArgs {
			switch kind := r.Kinds >> (8 * a) & 0xff; kind {
			case KindNumber:
			case KindArena:
				if r.Args[a] >= h.ArenaSize {
					return nil, false
				}
				r.Args[a] += arena
			case KindResult:
				if r.Args[a] >= uint64(i) {
					return nil, false
				}
				kinds |= KindResult << (8 * a)
			case KindSlot:
				fd, ok := slots(r.Args[a])
				if !ok {
					return nil, false
				}
				r.Args[a] = fd
			default:
				return nil, false
			}
		}
		r.Kinds = kinds // what is left to do in the child
		if r.Skip >= h.Count-uint64(i) {
			return nil, false // one is left to end with
		}
	}
	return records, true
}

// cloneArgs is struct clone_args of the kernel (clone(2)).
type cloneArgs struct {
	flags, pidfd, childTID, parentTID, exitSignal, stack, stackSize, tls, setTID, setTIDSize, cgroup uint64
}

const cloneClearSighand = 0x100000000

// launch clones the calling process; the child runs the records and never
// returns from here. No signal may be delivered to the calling thread. Between
// clone and exec there is no Go runtime to speak of: this function and what it
// calls hold nothing but words, allocate nothing, and have no stack check.
//
//go:nosplit
//go:norace
func launch(args *cloneArgs, records *Record, count uintptr, errorFD uintptr) (pid uintptr, errno syscall.Errno) {
	pid, _, errno = syscall.RawSyscall6(sysClone3, uintptr(unsafe.Pointer(args)), unsafe.Sizeof(*args), 0, 0, 0, 0)
	if errno == syscall.ENOSYS {
		// A container's filter may hide clone3 to see the flags.
		pid, errno = oldClone(uintptr(args.flags&^cloneClearSighand|args.exitSignal), uintptr(args.pidfd))
	}
	if errno != 0 || pid != 0 {
		return pid, errno
	}
	run(records, count, errorFD)
	return 0, 0 // not reached
}

// run makes the calls. It ends in an exec, or in the exit of the process.
//
//go:nosplit
//go:norace
func run(records *Record, count uintptr, errorFD uintptr) {
	var failed failure
	for i := uintptr(0); i < count; i++ {
		r := (*Record)(unsafe.Add(unsafe.Pointer(records), i*unsafe.Sizeof(Record{})))
		var a [MaxArgs]uintptr
		for n := 0; n < MaxArgs; n++ {
			a[n] = uintptr(r.Args[n])
			if r.Kinds>>(8*n)&0xff == KindResult {
				a[n] = uintptr((*Record)(unsafe.Add(unsafe.Pointer(records), a[n]*unsafe.Sizeof(Record{}))).Result)
			}
		}
		result, _, errno := syscall.RawSyscall6(uintptr(r.Number), a[0], a[1], a[2], a[3], a[4], a[5])
		if errno != 0 {
			if r.Tolerate == uint64(errno) || r.Tolerate == AnyError {
				continue
			}
			failed.index, failed.errno = uint64(i), uint64(errno)
			break
		}
		if r.Check != 0 && uint64(result) != r.Want {
			failed.index, failed.errno = uint64(i), uint64(syscall.ECONNABORTED)
			break
		}
		r.Result = uint64(result)
		if result == 0 {
			i += uintptr(r.Skip)
		}
	}
	if failed.errno != 0 {
		syscall.RawSyscall(syscall.SYS_WRITE, errorFD, uintptr(unsafe.Pointer(&failed)), unsafe.Sizeof(failed))
		for {
			syscall.RawSyscall(syscall.SYS_EXIT_GROUP, 126, 0, 0)
		}
	}
	for {
		syscall.RawSyscall(syscall.SYS_EXIT_GROUP, 0, 0, 0)
	}
}
