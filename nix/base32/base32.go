package base32

import "fmt"

// Alphabet is the characters in the order of their values, 0 to 31.
const Alphabet = "0123456789abcdfghijklmnpqrsvwxyz"

const (
	groupBytes = 5 // the smallest number of bytes that fills whole characters
	groupChars = 8
	longest    = 103 // characters of a digest of 512 bits; longer inputs cost an allocation more
	invalid    = 0xff
)

var values = func() (table [256]byte) {
	for i := range table {
		table[i] = invalid
	}
	for v := range len(Alphabet) {
		table[Alphabet[v]] = byte(v)
	}
	return table
}()

// ValidChar tells whether c belongs to the alphabet. Capital letters do not.
func ValidChar(c byte) bool { return values[c] != invalid }

// EncodedLen is the number of characters that n bytes become.
func EncodedLen(n int) int { return n/groupBytes*groupChars + (n%groupBytes*8+4)/5 }

// DecodedLen is the number of bytes that n characters become. Not every n is a
// length that an encoding can have; Decode refuses the others.
func DecodedLen(n int) int { return n/groupChars*groupBytes + n%groupChars*5/8 }

// Encode writes the encoding of src to the first EncodedLen(len(src)) bytes of
// dst. It panics when dst is shorter. The two must not overlap.
func Encode(dst, src []byte) {
	end := EncodedLen(len(src))
	dst = dst[:end]
	for len(src) >= groupBytes {
		v := uint64(src[0]) | uint64(src[1])<<8 | uint64(src[2])<<16 | uint64(src[3])<<24 | uint64(src[4])<<32
		group := dst[end-groupChars : end]
		group[7] = Alphabet[v&31]
		group[6] = Alphabet[v>>5&31]
		group[5] = Alphabet[v>>10&31]
		group[4] = Alphabet[v>>15&31]
		group[3] = Alphabet[v>>20&31]
		group[2] = Alphabet[v>>25&31]
		group[1] = Alphabet[v>>30&31]
		group[0] = Alphabet[v>>35&31]
		src, end = src[groupBytes:], end-groupChars
	}
	var v uint64
	for i, b := range src {
		v |= uint64(b) << (8 * i)
	}
	for end > 0 {
		end--
		dst[end] = Alphabet[v&31]
		v >>= 5
	}
}

// AppendEncode appends the encoding of src to dst.
func AppendEncode(dst, src []byte) []byte {
	dst, out := extend(dst, EncodedLen(len(src)))
	Encode(out, src)
	return dst
}

// EncodeToString gives the encoding of src.
func EncodeToString(src []byte) string {
	var short [longest]byte
	return string(AppendEncode(short[:0], src))
}

// Decode writes the bytes that src encodes to the first DecodedLen(len(src))
// bytes of dst and returns their number. It panics when dst is shorter. The
// two must not overlap.
//
// It fails for a character outside the alphabet, for a length that no encoding
// has, and where bits that would lie beyond the last byte are set: otherwise
// two texts would stand for the same bytes. After an error the content of dst
// is undefined.
func Decode(dst, src []byte) (int, error) { return decode(dst, src) }

// AppendDecode appends the bytes that src encodes to dst. It fails as Decode
// does, and then returns dst as it was.
func AppendDecode(dst, src []byte) ([]byte, error) {
	longer, out := extend(dst, DecodedLen(len(src)))
	if _, err := decode(out, src); err != nil {
		return dst, err
	}
	return longer, nil
}

// DecodeString gives the bytes that s encodes. It fails as Decode does.
func DecodeString(s string) ([]byte, error) {
	out := make([]byte, DecodedLen(len(s)))
	if _, err := decode(out, s); err != nil {
		return nil, err
	}
	return out, nil
}

func decode[T string | []byte](dst []byte, src T) (int, error) {
	n := DecodedLen(len(src))
	if EncodedLen(n) != len(src) {
		return 0, fmt.Errorf("decode base32: no encoding is %d characters long", len(src))
	}
	dst = dst[:n]
	end := len(src)
	for len(dst) >= groupBytes {
		group := src[end-groupChars : end]
		c0, c1, c2, c3 := values[group[7]], values[group[6]], values[group[5]], values[group[4]]
		c4, c5, c6, c7 := values[group[3]], values[group[2]], values[group[1]], values[group[0]]
		if c0|c1|c2|c3|c4|c5|c6|c7 == invalid {
			return 0, badChar(src)
		}
		v := uint64(c0) | uint64(c1)<<5 | uint64(c2)<<10 | uint64(c3)<<15 |
			uint64(c4)<<20 | uint64(c5)<<25 | uint64(c6)<<30 | uint64(c7)<<35
		dst[0], dst[1], dst[2], dst[3], dst[4] = byte(v), byte(v>>8), byte(v>>16), byte(v>>24), byte(v>>32)
		dst, end = dst[groupBytes:], end-groupChars
	}
	var v uint64
	for i := range end {
		c := values[src[i]]
		if c == invalid {
			return 0, badChar(src)
		}
		v = v<<5 | uint64(c)
	}
	for i := range dst {
		dst[i] = byte(v)
		v >>= 8
	}
	if v != 0 {
		return 0, fmt.Errorf("decode base32: first character %q sets bits beyond the last byte", src[0])
	}
	return n, nil
}

func badChar[T string | []byte](src T) error {
	for i := range len(src) {
		if !ValidChar(src[i]) {
			return fmt.Errorf("decode base32: invalid character %q at position %d", src[i], i)
		}
	}
	return nil
}

// extend lengthens dst by n bytes and returns it with the new part.
func extend(dst []byte, n int) (whole, part []byte) {
	if cap(dst)-len(dst) < n {
		dst = append(dst, make([]byte, n)...)
		return dst, dst[len(dst)-n:]
	}
	dst = dst[:len(dst)+n]
	return dst, dst[len(dst)-n:]
}
