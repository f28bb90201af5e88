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
	var e encoder
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
	arena       []byte
	relocations []uint64
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
		return launcher.KindArena, e.bytes(append([]byte(a.text), 0))
	case argBytes:
		if a.inner == nil {
			return launcher.KindArena, e.bytes(a.data)
		}
		kind, inner := e.arg(*a.inner)
		data := append([]byte(nil), a.data...)
		binary.NativeEndian.PutUint64(data[a.at:], inner)
		at := e.bytes(data)
		if kind == launcher.KindArena {
			e.relocations = append(e.relocations, at+uint64(a.at))
		}
		return launcher.KindArena, at
	case argStrings:
		offsets := make([]uint64, len(a.list))
		for i, s := range a.list {
			offsets[i] = e.bytes(append([]byte(s), 0))
		}
		var table []byte
		for _, o := range offsets {
			table = binary.NativeEndian.AppendUint64(table, o)
		}
		at := e.bytes(binary.NativeEndian.AppendUint64(table, 0))
		for i := range offsets {
			e.relocations = append(e.relocations, at+uint64(i)*8)
		}
		return launcher.KindArena, at
	case argResult:
		return launcher.KindResult, a.number
	case argSlot:
		return launcher.KindSlot, a.number
	}
	return launcher.KindNumber, a.number
}

// bytes puts data into the arena at an address that any word may have.
func (e *encoder) bytes(data []byte) uint64 {
	for len(e.arena)%8 != 0 {
		e.arena = append(e.arena, 0)
	}
	at := uint64(len(e.arena))
	e.arena = append(e.arena, data...)
	return at
}
