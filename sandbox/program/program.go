package program

import (
	"slices"
	"syscall"

	"github.com/kilnbuild/kiln/sandbox/launcher"
)

// A Program is a list of system calls, made one after the other until one fails.
// The zero value is empty and ready to use. It is not safe for concurrent use.
type Program struct {
	Instructions []Instruction
}

// An Instruction is one system call.
type Instruction struct {
	Call Call
	Args []Arg
	// What says in words what the call is for, as it stands in the message when
	// it fails: "mount /proc".
	What string
	// Tolerate is an error that counts as success. AnyError makes the call one
	// whose failure does not matter.
	Tolerate syscall.Errno
	AnyError bool
	// Want is what the call must return, if Check is set.
	Check bool
	Want  uint64
	// Skip is how many of the instructions that follow are left out when the call
	// returns 0, as clone does in the child. At least one has to be left.
	Skip int
}

// Call is a system call.
type Call struct {
	Name   string
	Number uintptr
}

// Ref stands for the result of an instruction, most often a descriptor.
type Ref int

// Add appends an instruction and gives its result. The pointer is good until the
// next Add, to set the fields that most instructions do not need.
func (p *Program) Add(what string, call Call, args ...Arg) (Ref, *Instruction) {
	p.Instructions = append(p.Instructions, Instruction{Call: call, Args: args, What: what})
	return Ref(len(p.Instructions) - 1), &p.Instructions[len(p.Instructions)-1]
}

// Grow makes room for n more instructions.
func (p *Program) Grow(n int) { p.Instructions = slices.Grow(p.Instructions, n) }

// An Arg is an argument of a system call. It can be used more than once.
type Arg struct {
	kind   argKind
	number uint64
	text   string // a string; of others, how they are printed, "" for the digits of a number
	more   *more  // of argStrings, argBytes and argShared
}

// more is what few arguments have: a program has thousands.
type more struct {
	list  []string
	data  []byte
	inner *Arg // what a pointer in data points to
	at    int  // where that pointer is
}

type argKind uint8

const (
	argNumber argKind = iota
	argString
	argStrings
	argBytes
	argShared
	argResult
	argSlot
)

// Number is an integer. Negative numbers are passed as the kernel takes them.
func Number[T ~int | ~int64 | ~uint | ~uint32 | ~uint64 | ~uintptr](n T) Arg {
	return Arg{kind: argNumber, number: uint64(n)}
}

// Named is an integer with the names of its flags.
func Named[T ~int | ~uint | ~uint32 | ~uint64 | ~uintptr](n T, names string) Arg {
	return Arg{kind: argNumber, number: uint64(n), text: names}
}

// String is a string with its NUL.
func String(s string) Arg { return Arg{kind: argString, text: s} }

// Strings is an array of strings, ended by a null pointer, as argv is.
func Strings(list []string) Arg { return Arg{kind: argStrings, more: &more{list: list}} }

// Bytes is the address of data; print is how it is shown. Every use of it is another address.
func Bytes(data []byte, print string) Arg {
	return Arg{kind: argBytes, text: print, more: &more{data: data}}
}

// Shared is Bytes with the same address wherever it is used in a program: what one call has
// written there the next one reads.
func Shared(data []byte, print string) Arg {
	return Arg{kind: argShared, text: print, more: &more{data: data}}
}

// Struct is the address of data in which the word at offset at is the address of
// inner.
func Struct(data []byte, at int, inner Arg, print string) Arg {
	return Arg{kind: argBytes, text: print, more: &more{data: data, at: at, inner: &inner}}
}

// Result is what an earlier instruction gave.
func Result(r Ref) Arg { return Arg{kind: argResult, number: uint64(r)} }

// Descriptor is the i-th descriptor that comes with the program.
func Descriptor(i int) Arg { return Arg{kind: argSlot, number: uint64(i)} }

// Descriptors that the launcher has for every program.
var (
	// GoFD gives a byte when the launcher has done its part.
	GoFD = Arg{kind: argSlot, number: launcher.SlotGo}
	// ReadyFD takes a byte to say that the launcher may do its part.
	ReadyFD = Arg{kind: argSlot, number: launcher.SlotReady}
	// ErrorFD is where failures are reported.
	ErrorFD = Arg{kind: argSlot, number: launcher.SlotError}
	// LauncherFD is an epoll descriptor with an event when the launcher is dead.
	LauncherFD = Arg{kind: argSlot, number: launcher.SlotLauncher}
)

// Here is the current directory, in calls that take a directory.
var Here = Named(^uint64(99), "AT_FDCWD")

// Null is a null pointer.
var Null = Named(uint64(0), "NULL")

// Text is the string of an argument made by String, "" for others.
func (a Arg) Text() string {
	if a.kind != argString {
		return ""
	}
	return a.text
}
