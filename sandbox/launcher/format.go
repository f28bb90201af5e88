package launcher

import "unsafe"

// Argv0 is the name under which the binary is the launcher, and Socket the
// descriptor on which it then finds its client.
const (
	Argv0  = "kiln-launcher"
	Socket = 3
)

// An encoded program is: Header, then Count Records, then RelocCount offsets
// (uint64), then the arena. Everything is in the machine's byte order, since it
// never leaves the machine, and ready to be linked in place.
type Header struct {
	Magic      uint64
	Count      uint64 // of records
	RelocCount uint64
	ArenaSize  uint64 // bytes
}

// Magic begins every program. It changes with the format.
const Magic = 0x6b696c6e70726734

// Limits of a program.
const (
	MaxRecords     = 1 << 20
	MaxProgramSize = 256 << 20 // bytes
)

// MaxArgs is how many arguments a system call takes.
const MaxArgs = 6

// Record is one system call.
type Record struct {
	Number uint64
	// Kinds has one byte for each argument, the first lowest.
	Kinds uint64
	Args  [MaxArgs]uint64
	// Tolerate is an errno that counts as success; AnyError tolerates all.
	Tolerate uint64
	// Want is the result that counts as success, if Check is set.
	Check, Want uint64
	// Skip is how many of the records that follow are left out when the result is 0, as
	// it is for the child of a clone. There is no way back.
	Skip uint64
	// Result is written when the call was made.
	Result uint64
}

// AnyError in Tolerate makes a call whose failure does not matter.
const AnyError = ^uint64(0)

// Kinds of arguments.
const (
	KindNumber = iota // the word itself
	KindArena         // an offset into the arena, to become an address
	KindResult        // the index of an earlier record, to become its result
	KindSlot          // a descriptor: a Slot, or the index of one that came with the request
)

// Slots of descriptors that the launcher itself makes. Smaller numbers are
// descriptors of the request.
const (
	SlotGo    = 1 << 16 // reading a byte: the launcher has done its part
	SlotReady = SlotGo + 1
	SlotError = SlotGo + 2
	// SlotLauncher is an epoll descriptor that has an event when the launcher is
	// dead. A process in a new pid namespace has no other way to see that.
	SlotLauncher = SlotGo + 3
)

// Request is the first part of the message that asks for a launch. With it come
// descriptors: that of the program (a memory file) and those that the program
// names by slot.
type Request struct {
	Magic      uint64
	ID         uint64 // chosen by the client, repeated in every answer
	CloneFlags uint64
	Size       uint64 // of the program in bytes
	Siblings   uint64 // not 0: hand out the namespaces when the child says that it is ready
	Successor  uint64 // not 0: the child makes another one of ours in its place, and tells its pid (SlotReady)
	MapIDs     uint64 // not 0: write the maps
	UIDMap     [3]uint64
	GIDMap     [3]uint64
	KeepGroups uint64 // not 0: leave setgroups allowed; needs privilege
	KillGroup  uint64 // not 0: when the child ends, kill what is left of its process group
}

// Kinds of Reply.
const (
	Started = 1 + iota // with a pidfd, and the mount and user namespace if asked for
	Failed             // Index and Errno say which call; the child is gone
	Exited             // the child of an earlier Started is gone
	Refused            // the launch could not be tried: Errno, and Index one of the Stage constants
)

// Stages of a launch that can fail outside of the program.
const (
	StageRequest = 1 + iota
	StageProgram
	StagePipe
	StageClone
	StageIDMap
	StageNamespaces
	StageSuccessor
)

// Reply is an answer of the launcher.
type Reply struct {
	Magic  uint64
	ID     uint64
	Kind   uint64
	PID    uint64
	Index  uint64
	Errno  uint64
	Status uint64 // as wait4 gives it
	UserNS uint64 // nanoseconds of processor time
	SysNS  uint64
	MaxRSS uint64 // KiB
}

// failure is what the child writes when a call fails.
type failure struct{ index, errno uint64 }

// Bytes is the memory of a message.
func (r *Request) Bytes() []byte { return unsafe.Slice((*byte)(unsafe.Pointer(r)), unsafe.Sizeof(*r)) }

// Bytes is the memory of a message.
func (r *Reply) Bytes() []byte { return unsafe.Slice((*byte)(unsafe.Pointer(r)), unsafe.Sizeof(*r)) }
