package program

import (
	"encoding/binary"
	"fmt"
	"unsafe"

	"github.com/kilnbuild/kiln/sandbox/launcher"
)

// Encode gives the program in the form that the launcher takes, or says why it
// cannot be one: it is too long, or it refers to a result that is not there yet.
func (p *Program) Encode() ([]byte, error) {
	if len(p.Instructions) == 0 || len(p.Instructions) > launcher.MaxRecords {
		return nil, fmt.Errorf("encode program: %d instructions, where 1 to %d can be", len(p.Instructions), launcher.MaxRecords)
	}
	e := encoder{count: len(p.Instructions), arena: make([]byte, 0, p.arenaSize())}
	records := make([]launcher.Record, len(p.Instructions))
	for i := range p.Instructions {
		if err := e.record(&records[i], &p.Instructions[i], i); err != nil {
			return nil, fmt.Errorf("encode program: instruction %d (%s): %w", i, p.Instructions[i].Call.Name, err)
		}
	}
	header := launcher.Header{
		Magic: launcher.Magic, Count: uint64(len(records)), RelocCount: uint64(len(e.relocations)), ArenaSize: uint64(len(e.arena)),
	}
	size := int(unsafe.Sizeof(header)) + len(records)*int(unsafe.Sizeof(launcher.Record{})) + len(e.relocations)*8 + len(e.arena)
	if size > launcher.MaxProgramSize {
		return nil, fmt.Errorf("encode program: %d bytes are more than the limit of %d", size, launcher.MaxProgramSize)
	}
	out := make([]byte, 0, size)
	out = append(out, unsafe.Slice((*byte)(unsafe.Pointer(&header)), unsafe.Sizeof(header))...)
	out = append(out, unsafe.Slice((*byte)(unsafe.Pointer(&records[0])), len(records)*int(unsafe.Sizeof(records[0])))...)
	for _, r := range e.relocations {
		out = binary.NativeEndian.AppendUint64(out, r)
	}
	return append(out, e.arena...), nil
}

type encoder struct {
	count       int // of the instructions
	arena       []byte
	relocations []uint64
	shared      map[*more]uint64 // where in the arena each argShared is; made with the first
}

func (e *encoder) record(r *launcher.Record, in *Instruction, index int) error {
	if len(in.Args) > launcher.MaxArgs {
		return fmt.Errorf("%d arguments", len(in.Args))
	}
	r.Number = uint64(in.Call.Number)
	r.Tolerate = uint64(in.Tolerate)
	if in.AnyError {
		r.Tolerate = launcher.AnyError
	}
	if in.Check {
		r.Check, r.Want = 1, in.Want
	}
	if in.Skip < 0 || in.Skip > 0 && index+in.Skip >= e.count-1 {
		return fmt.Errorf("it skips %d instructions, and there are not so many before the last", in.Skip)
	}
	r.Skip = uint64(in.Skip)
	for n, a := range in.Args {
		kind, value := e.arg(a)
		if kind == launcher.KindResult && value >= uint64(index) {
			return fmt.Errorf("argument %d is the result of instruction %d, which comes later", n, value)
		}
		r.Kinds |= kind << (8 * n)
		r.Args[n] = value
	}
	return nil
}

func (e *encoder) arg(a Arg) (kind, value uint64) {
	switch a.kind {
	case argString:
		return launcher.KindArena, e.text(a.text)
	case argBytes:
		if a.more.inner == nil {
			return launcher.KindArena, e.bytes(a.more.data)
		}
		kind, inner := e.arg(*a.more.inner)
		at := e.bytes(a.more.data)
		pointer := at + uint64(a.more.at)
		binary.NativeEndian.PutUint64(e.arena[pointer:], inner)
		if kind == launcher.KindArena {
			e.relocations = append(e.relocations, pointer)
		}
		return launcher.KindArena, at
	case argShared:
		at, known := e.shared[a.more]
		if !known {
			if e.shared == nil {
				e.shared = make(map[*more]uint64)
			}
			at = e.bytes(a.more.data)
			e.shared[a.more] = at
		}
		return launcher.KindArena, at
	case argStrings:
		offsets := make([]uint64, len(a.more.list))
		for i, s := range a.more.list {
			offsets[i] = e.text(s)
		}
		at := e.bytes(nil)
		for i, o := range offsets {
			e.relocations = append(e.relocations, at+uint64(i)*wordSize)
			e.arena = binary.NativeEndian.AppendUint64(e.arena, o)
		}
		e.arena = binary.NativeEndian.AppendUint64(e.arena, 0)
		return launcher.KindArena, at
	case argResult:
		return launcher.KindResult, a.number
	case argSlot:
		return launcher.KindSlot, a.number
	}
	return launcher.KindNumber, a.number
}

// wordSize is what everything in the arena is aligned to, so that any word may be there.
const wordSize = 8

func aligned(n int) int { return (n + wordSize - 1) &^ (wordSize - 1) }

// bytes puts data into the arena.
func (e *encoder) bytes(data []byte) uint64 {
	at := e.align()
	e.arena = append(e.arena, data...)
	return at
}

// text puts a string and its NUL into the arena.
func (e *encoder) text(s string) uint64 {
	at := e.align()
	e.arena = append(append(e.arena, s...), 0)
	return at
}

func (e *encoder) align() uint64 {
	for len(e.arena)%wordSize != 0 {
		e.arena = append(e.arena, 0)
	}
	return uint64(len(e.arena))
}

// arenaSize is how much the arguments take in the arena at most, in bytes.
func (p *Program) arenaSize() int {
	n := 0
	for i := range p.Instructions {
		for _, a := range p.Instructions[i].Args {
			n += a.arenaSize()
		}
	}
	return n
}

func (a Arg) arenaSize() int {
	switch a.kind {
	case argString:
		return aligned(len(a.text) + 1)
	case argBytes, argShared:
		n := aligned(len(a.more.data))
		if a.more.inner != nil {
			n += a.more.inner.arenaSize()
		}
		return n
	case argStrings:
		n := (len(a.more.list) + 1) * wordSize
		for _, s := range a.more.list {
			n += aligned(len(s) + 1)
		}
		return n
	}
	return 0
}
