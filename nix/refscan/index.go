package refscan

import (
	"encoding/binary"
	"fmt"
	"math/bits"
	"math/rand/v2"

	"github.com/kilnbuild/kiln/nix/base32"
)

// HashLen is the length of a hash part in bytes (Nix manual, "Store Path").
const HashLen = 32

const (
	blockLen = 8                      // bytes at the end of a window that choose the table entry
	maxShift = HashLen - blockLen + 1 // how far the window moves when they are in no hash

	// The table has at least roomPerBlock entries for each block, so that few
	// blocks that are in no hash share an entry with one that is. The sizes keep
	// it in the first level cache for tens of hashes and in the second for
	// thousands. Beyond that the scan gets slower, but stays right.
	roomPerBlock = 16
	minTableBits = 14
	maxTableBits = 20
)

// highBits are the highest bits of the bytes of a block.
const highBits = 0x8080808080808080

type hashPart [HashLen]byte

// index is a set of hash parts, numbered from 0, made for finding them. It does
// not change, and serves any number of goroutines.
type index struct {
	numbers map[hashPart]int
	hashes  []string

	// table has for every value of slot the least distance from a block with this
	// value to the end of a hash: how far the window can move without passing the
	// end of an occurrence. The blocks are spread by a random odd factor, so that
	// no text can be prepared that meets full entries without repeating hashes.
	table  []uint8
	factor uint64
	shift  int

	// heads is a set of bits: the slots of the first blocks of the hashes. A window
	// whose first and last block belong to no hash need not be looked up. Without
	// it, somebody who finds hashes with a common end could make every byte cost a
	// look-up; to make a common beginning as well is out of reach.
	heads []uint64
}

// newIndex numbers hashes in the given order. One that comes again keeps its
// first number.
func newIndex(hashes []string) (*index, error) {
	x := &index{numbers: make(map[hashPart]int, len(hashes)), factor: rand.Uint64() | 1}
	for _, h := range hashes {
		if err := checkHash(h); err != nil {
			return nil, err
		}
		key := hashPart([]byte(h))
		if _, ok := x.numbers[key]; !ok {
			x.numbers[key] = len(x.hashes)
			x.hashes = append(x.hashes, h)
		}
	}
	tableBits := min(max(bits.Len(uint(len(x.hashes)*maxShift*roomPerBlock)), minTableBits), maxTableBits)
	x.shift = 64 - tableBits
	x.table = make([]uint8, 1<<tableBits)
	for i := range x.table {
		x.table[i] = maxShift
	}
	x.heads = make([]uint64, 1<<tableBits/64)
	for key := range x.numbers {
		head := x.slot(key[:])
		x.heads[head/64] |= 1 << (head % 64)
		for end := blockLen; end <= HashLen; end++ {
			entry := &x.table[x.slot(key[end-blockLen:])]
			*entry = min(*entry, uint8(HashLen-end))
		}
	}
	return x, nil
}

func checkHash(h string) error {
	if len(h) != HashLen {
		return fmt.Errorf("scan for hash %q: it has %d characters, want %d", h[:min(len(h), 2*HashLen)], len(h), HashLen)
	}
	for i := range len(h) {
		if !base32.ValidChar(h[i]) {
			return fmt.Errorf("scan for hash %q: invalid character %q", h, h[i])
		}
	}
	return nil
}

func (x *index) slot(block []byte) uint64 {
	return binary.LittleEndian.Uint64(block) * x.factor >> x.shift
}

// next finds the first occurrence in p that begins at from or later. It gives
// where that begins and the number of the hash; or else -1 for the number, and
// the first position where an occurrence could begin that p does not hold to its
// end: at least len(p)-HashLen+1, unless from is greater.
func (x *index) next(p []byte, from int) (pos, number int) {
	table, factor, shift := x.table, x.factor, uint(x.shift)&63
	for from+HashLen <= len(p) {
		block := binary.LittleEndian.Uint64(p[from+HashLen-blockLen:])
		// No byte of a hash has its highest bit set, and in what is no text most have.
		// The window moves by a constant then, so that the next block need not wait
		// for this one.
		if block&highBits != 0 {
			from += maxShift
			continue
		}
		move := int(table[block*factor>>shift])
		if move == 0 {
			if head := binary.LittleEndian.Uint64(p[from:]) * factor >> shift; x.heads[head/64]>>(head%64)&1 != 0 {
				if number, ok := x.numbers[hashPart(p[from:])]; ok {
					return from, number
				}
			}
			move = 1
		}
		from += move
	}
	return from, -1
}
