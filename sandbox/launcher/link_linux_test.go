package launcher

import (
	"encoding/binary"
	"testing"
	"unsafe"
)

// encode makes a program of words: a header, records, relocations, an arena.
func encode(h Header, records []Record, relocations []uint64, arena []byte) []byte {
	out := append([]byte(nil), unsafe.Slice((*byte)(unsafe.Pointer(&h)), unsafe.Sizeof(h))...)
	for i := range records {
		out = append(out, unsafe.Slice((*byte)(unsafe.Pointer(&records[i])), unsafe.Sizeof(records[i]))...)
	}
	for _, r := range relocations {
		out = binary.NativeEndian.AppendUint64(out, r)
	}
	return append(out, arena...)
}

func good() []byte {
	return encode(Header{Magic: Magic, Count: 2, RelocCount: 1, ArenaSize: 16}, []Record{
		{Number: 1, Kinds: KindArena | KindSlot<<8 | KindSlot<<16, Args: [MaxArgs]uint64{8, 0, SlotGo}},
		{Number: 2, Kinds: KindResult | KindNumber<<8, Args: [MaxArgs]uint64{0, 77}},
	}, []uint64{0}, make([]byte, 16))
}

func testSlots(slot uint64) (uint64, bool) {
	switch slot {
	case 0:
		return 40, true
	case SlotGo:
		return 41, true
	}
	return 0, false
}

func TestLink(t *testing.T) {
	mem := good()
	records, ok := link(mem, testSlots)
	if !ok || len(records) != 2 {
		t.Fatalf("link gives %d records, %v", len(records), ok)
	}
	arena := uint64(uintptr(unsafe.Pointer(&mem[len(mem)-16])))
	if a := records[0].Args; a[0] != arena+8 || a[1] != 40 || a[2] != 41 {
		t.Errorf("arguments are %#x, the arena is at %#x", a, arena)
	}
	if records[1].Kinds != KindResult || records[1].Args[1] != 77 {
		t.Errorf("the second record is %+v", records[1])
	}
	if word := binary.NativeEndian.Uint64(mem[len(mem)-16:]); word != arena {
		t.Errorf("the relocated word is %#x, want %#x", word, arena)
	}
}

// TestLinkRefuses has a program for everything that could lead out of its memory.
func TestLinkRefuses(t *testing.T) {
	one := func(r Record) []byte {
		return encode(Header{Magic: Magic, Count: 1, ArenaSize: 8}, []Record{r}, nil, make([]byte, 8))
	}
	for name, mem := range map[string][]byte{
		"nothing":                        {},
		"half a header":                  make([]byte, 16),
		"another magic":                  encode(Header{Magic: 1, Count: 1}, make([]Record, 1), nil, nil),
		"no records":                     encode(Header{Magic: Magic}, nil, nil, nil),
		"more records than there are":    encode(Header{Magic: Magic, Count: 2}, make([]Record, 1), nil, nil),
		"a number of records that wraps": encode(Header{Magic: Magic, Count: 1 << 60}, make([]Record, 1), nil, nil),
		"an arena that wraps":            encode(Header{Magic: Magic, Count: 1, ArenaSize: ^uint64(0)}, make([]Record, 1), nil, nil),
		"a trailing byte":                append(good(), 0),
		"an address behind the arena":    one(Record{Kinds: KindArena, Args: [MaxArgs]uint64{8}}),
		"its own result":                 one(Record{Kinds: KindResult}),
		"a descriptor that did not come": one(Record{Kinds: KindSlot, Args: [MaxArgs]uint64{7}}),
		"an unknown kind":                one(Record{Kinds: 9}),
		"skipping to behind the end":     one(Record{Skip: 1}),
		"skipping that wraps":            one(Record{Skip: ^uint64(0)}),
		"a relocation behind the arena":  encode(Header{Magic: Magic, Count: 1, RelocCount: 1, ArenaSize: 8}, make([]Record, 1), []uint64{8}, make([]byte, 8)),
		"a relocation between words":     encode(Header{Magic: Magic, Count: 1, RelocCount: 1, ArenaSize: 16}, make([]Record, 1), []uint64{4}, make([]byte, 16)),
		"a relocated word that leads out": encode(Header{Magic: Magic, Count: 1, RelocCount: 1, ArenaSize: 8}, make([]Record, 1), []uint64{0},
			binary.NativeEndian.AppendUint64(nil, 8)),
	} {
		if _, ok := link(mem, testSlots); ok {
			t.Errorf("%s was linked", name)
		}
	}
}

// FuzzLink checks that every address in a program that was accepted lies in its
// memory.
func FuzzLink(f *testing.F) {
	f.Add(good())
	f.Add(good()[:40])
	f.Fuzz(func(t *testing.T, data []byte) {
		mem := make([]uint64, len(data)/8+1) // aligned as a mapping is
		aligned := unsafe.Slice((*byte)(unsafe.Pointer(&mem[0])), len(data))
		copy(aligned, data)
		var kinds []uint64
		if h := len(data) >= int(unsafe.Sizeof(Header{})); h {
			count := binary.NativeEndian.Uint64(data[8:])
			for i := uint64(0); i < min(count, 1000); i++ {
				at := uint64(unsafe.Sizeof(Header{})) + i*uint64(unsafe.Sizeof(Record{})) + 8
				if at+8 > uint64(len(data)) {
					break
				}
				kinds = append(kinds, binary.NativeEndian.Uint64(data[at:]))
			}
		}
		records, ok := link(aligned, testSlots)
		if !ok {
			return
		}
		begin := uint64(uintptr(unsafe.Pointer(&mem[0])))
		end := begin + uint64(len(data))
		for i, r := range records {
			for a := range MaxArgs {
				if i < len(kinds) && kinds[i]>>(8*a)&0xff == KindArena && (r.Args[a] < begin || r.Args[a] >= end) {
					t.Errorf("record %d has the address %#x outside of %#x to %#x", i, r.Args[a], begin, end)
				}
				if r.Kinds>>(8*a)&0xff == KindResult && r.Args[a] >= uint64(i) {
					t.Errorf("record %d uses the result of %d", i, r.Args[a])
				}
			}
		}
	})
}
