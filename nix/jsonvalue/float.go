package jsonvalue

import (
	"math"
	"math/big"
	"math/bits"
	"strconv"
	"sync"
)

// appendFloat appends a finite number as Nix prints it: as a decimal fraction
// when its first digit lies from the fourth place after the point to the
// fifteenth before it, else with an exponent of at least two digits. What looks
// like an integer gets ".0".
func appendFloat(dst []byte, f float64) []byte {
	if math.Signbit(f) {
		dst = append(dst, '-')
		f = -f
	}
	if f == 0 {
		return append(dst, "0.0"...)
	}
	var buf [32]byte
	digits, exponent := grisu(buf[:0], f)
	point := len(digits) + exponent // f is 0.digits × 10^point
	switch {
	case len(digits) <= point && point <= 15:
		dst = append(dst, digits...)
		dst = appendZeros(dst, exponent)
		return append(dst, ".0"...)
	case 0 < point && point <= 15:
		dst = append(dst, digits[:point]...)
		dst = append(dst, '.')
		return append(dst, digits[point:]...)
	case -4 < point && point <= 0:
		dst = append(dst, "0."...)
		dst = appendZeros(dst, -point)
		return append(dst, digits...)
	}
	dst = append(dst, digits[0])
	if len(digits) > 1 {
		dst = append(dst, '.')
		dst = append(dst, digits[1:]...)
	}
	dst = append(dst, 'e')
	e := point - 1
	if e < 0 {
		dst = append(dst, '-')
		e = -e
	} else {
		dst = append(dst, '+')
	}
	if e < 10 {
		dst = append(dst, '0')
	}
	return strconv.AppendInt(dst, int64(e), 10)
}

func appendZeros(dst []byte, n int) []byte {
	for range n {
		dst = append(dst, '0')
	}
	return dst
}

// scaled is the number f × 2^e.
type scaled struct {
	f uint64
	e int
}

func (x scaled) normalize() scaled {
	n := bits.LeadingZeros64(x.f)
	return scaled{x.f << n, x.e - n}
}

// mul is x × y, rounded to 64 bits.
func (x scaled) mul(y scaled) scaled {
	hi, lo := bits.Mul64(x.f, y.f)
	return scaled{hi + lo>>63, x.e + y.e + 64}
}

// grisu gives digits that read back as the positive number f, which is
// digits × 10^exponent. This is Grisu2 of Florian Loitsch, "Printing
// Floating-Point Numbers Quickly and Accurately with Integers" (2010). One time
// in a thousand it gives more digits than need be, so the shortest ones of package
// strconv are not what Nix prints.
func grisu(buf []byte, f float64) (digits []byte, exponent int) {
	const fractionBits = 52
	const hidden = uint64(1) << fractionBits
	const bias = 1023 + fractionBits
	fraction := math.Float64bits(f) & (hidden - 1)
	biased := int(math.Float64bits(f) >> fractionBits)

	v := scaled{fraction, 1 - bias}
	if biased != 0 {
		v = scaled{fraction | hidden, biased - bias}
	}
	// The numbers halfway to f's neighbours: what lies between them reads back as
	// f. Below a power of two the neighbour is nearer.
	high := scaled{2*v.f + 1, v.e - 1}.normalize()
	low := scaled{2*v.f - 1, v.e - 1}
	if fraction == 0 && biased > 1 {
		low = scaled{4*v.f - 1, v.e - 2}
	}
	low = scaled{low.f << (low.e - high.e), high.e}

	power, k := powerFor(high.e)
	w := v.normalize().mul(power)
	high, low = high.mul(power), low.mul(power)
	// Products are off by up to one unit: stay inside.
	high.f--
	low.f++
	return generate(buf, -k, low, w, high)
}

// generate appends the fewest digits of a number between low and high, and as
// near to w as the last of them allows. All three have the same exponent, from
// -60 to -32.
func generate(buf []byte, exponent int, low, w, high scaled) ([]byte, int) {
	shift := uint(-high.e)
	delta, dist := high.f-low.f, high.f-w.f
	whole, rest := high.f>>shift, high.f&(1<<shift-1)

	pow10, n := uint64(1), 1
	for pow10*10 <= whole {
		pow10 *= 10
		n++
	}
	for n > 0 {
		buf = append(buf, '0'+byte(whole/pow10))
		whole %= pow10
		n--
		if left := whole<<shift + rest; left <= delta {
			weed(buf, dist, delta, left, pow10<<shift)
			return buf, exponent + n
		}
		pow10 /= 10
	}
	for {
		rest *= 10
		delta *= 10
		dist *= 10
		buf = append(buf, '0'+byte(rest>>shift))
		rest &= 1<<shift - 1
		exponent--
		if rest <= delta {
			weed(buf, dist, delta, rest, 1<<shift)
			return buf, exponent
		}
	}
}

// weed lowers the last digit as long as that brings the number nearer to w. The
// number is left below the upper bound, w is dist below it, the lower bound is
// delta below it; unit is what one in the last digit is worth.
func weed(buf []byte, dist, delta, left, unit uint64) {
	for left < dist && delta-left >= unit && (left+unit < dist || dist-left > left+unit-dist) {
		buf[len(buf)-1]--
		left += unit
	}
}

// The powers of ten that numbers are scaled by: from 10^-300, every eighth.
const (
	firstPower = -300
	powerStep  = 8
	powerCount = 79
)

var powers = sync.OnceValue(func() (table [powerCount]scaled) {
	for i := range table {
		table[i] = powerOfTen(firstPower + i*powerStep)
	}
	return table
})

// powerFor is a power of ten, 10^k, that brings numbers with the binary exponent
// e into the range that generate wants.
func powerFor(e int) (power scaled, k int) {
	f := -60 - e - 1
	// 78913 / 2^18 is log10(2).
	k = f * 78913 / (1 << 18)
	if f > 0 {
		k++
	}
	i := (k - firstPower + powerStep - 1) / powerStep
	return powers()[i], firstPower + i*powerStep
}

// powerOfTen is 10^k, rounded to 64 bits, with the highest bit set.
func powerOfTen(k int) scaled {
	ten := big.NewInt(10)
	var num *big.Int
	den := big.NewInt(1)
	shift := 0
	if k >= 0 {
		num = ten.Exp(ten, big.NewInt(int64(k)), nil)
		if n := num.BitLen(); n <= 64 {
			return scaled{num.Uint64() << (64 - n), n - 64}
		}
		shift = num.BitLen() - 64
		den.Lsh(den, uint(shift))
	} else {
		den = ten.Exp(ten, big.NewInt(int64(-k)), nil)
		shift = -63 - den.BitLen()
		num = new(big.Int).Lsh(big.NewInt(1), uint(-shift))
	}
	// Round half up: neither half nor all ones occurs in the table.
	num.Lsh(num, 1).Add(num, den)
	return scaled{num.Div(num, den.Lsh(den, 1)).Uint64(), shift}
}
