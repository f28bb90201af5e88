package progress

import (
	"bytes"
	"strconv"
)

// style is how a cell of the terminal looks. The zero value is the terminal's
// own.
type style struct {
	fg, bg colour
	attr   attribute
}

// colour is 0 for the terminal's own, paletteColour with an index below, or
// directColour with red, green and blue below.
type colour uint32

const (
	paletteColour colour = 1 << 24
	directColour  colour = 2 << 24
)

type attribute uint8

// What text may be beside coloured. Blinking and hidden text are not among it:
// nobody wants them from a stranger.
const (
	bold attribute = 1 << iota
	faint
	italic
	underline
	inverse
	struck
)

// The program's own palette: the first eight colours, which terminals' themes
// keep readable.
var (
	plain   = style{}
	dim     = style{attr: faint}
	strong  = style{attr: bold}
	good    = style{fg: paletteColour | 2}
	bad     = style{fg: paletteColour | 1, attr: bold}
	failure = style{fg: paletteColour | 1}
	warning = style{fg: paletteColour | 3}
	busy    = style{fg: paletteColour | 6}
	remote  = style{fg: paletteColour | 5}
)

// over gives the style of text that has style s where the style around it is
// base.
func (s style) over(base style) style {
	if s.fg == 0 {
		s.fg = base.fg
	}
	if s.bg == 0 {
		s.bg = base.bg
	}
	s.attr |= base.attr
	return s
}

// appendTo writes the sequence that makes a terminal use the style, whatever it
// used before (ECMA-48, SGR).
func (s style) appendTo(dst []byte) []byte {
	dst = append(dst, "\x1b[0"...)
	for i, code := range [...]byte{1, 2, 3, 4, 7, 9} {
		if s.attr&(1<<i) != 0 {
			dst = append(dst, ';', '0'+code)
		}
	}
	dst = s.fg.appendTo(dst, 30)
	dst = s.bg.appendTo(dst, 40)
	return append(dst, 'm')
}

// appendTo writes the parameters for a colour; base is 30 or 40.
func (c colour) appendTo(dst []byte, base int64) []byte {
	num := func(n int64) { dst = strconv.AppendInt(append(dst, ';'), n, 10) }
	n := int64(c & 0xffffff)
	switch {
	case c == 0:
	case c&directColour != 0:
		num(base + 8)
		num(2)
		num(n >> 16)
		num(n >> 8 & 0xff)
		num(n & 0xff)
	case n < 8:
		num(base + n)
	case n < 16:
		num(base + 60 + n - 8)
	default:
		num(base + 8)
		num(5)
		num(n)
	}
	return dst
}

// Limits of what is read of one sequence. Real ones are far below.
const (
	maxSGRGroups = 32
	maxSGRParts  = 6
)

// sgr is the style after a "select graphic rendition" sequence with these
// parameters. What is not known changes nothing.
func (s style) sgr(params []byte) style {
	// Groups stand between semicolons, their parts between colons. Colours come
	// as 38;5;n and as 38:5:n.
	var groups [maxSGRGroups][]byte
	n := 0
	for rest, more := params, true; more && n < maxSGRGroups; n++ {
		groups[n], rest, more = bytes.Cut(rest, []byte(";"))
	}
	for i := 0; i < n; i++ {
		parts, count := sgrParts(groups[i])
		switch code := parts[0]; code {
		case 38, 48, 58:
			if count == 1 {
				// The rest of it is in the groups that follow.
				for i+1 < n && count < 5 && (count < 3 || parts[1] == 2) {
					i++
					next, _ := sgrParts(groups[i])
					parts[count] = next[0]
					count++
				}
			} else if count == 6 {
				copy(parts[2:], parts[3:]) // a colour space, which nobody has
				count--
			}
			if c, ok := sgrColour(parts, count); ok && code == 38 {
				s.fg = c
			} else if ok && code == 48 {
				s.bg = c
			}
		case 4:
			s.attr |= underline
			if count > 1 && parts[1] == 0 {
				s.attr &^= underline
			}
		default:
			if count == 1 {
				s = s.sgrCode(code)
			}
		}
	}
	return s
}

// sgrParts reads the numbers of one group; a number that is left out is 0.
func sgrParts(group []byte) (parts [maxSGRParts]int, count int) {
	for rest, more := group, true; more && count < maxSGRParts; count++ {
		var digits []byte
		digits, rest, more = bytes.Cut(rest, []byte(":"))
		for _, d := range digits {
			if d < '0' || d > '9' || parts[count] > 999 {
				parts[count] = -1
				break
			}
			parts[count] = parts[count]*10 + int(d-'0')
		}
	}
	return parts, count
}

// sgrColour reads what stands after 38 or 48: 5 and an index, or 2 and three
// intensities.
func sgrColour(parts [maxSGRParts]int, count int) (colour, bool) {
	octet := func(n int) bool { return n >= 0 && n <= 255 }
	switch {
	case count == 3 && parts[1] == 5 && octet(parts[2]):
		return paletteColour | colour(parts[2]), true
	case count == 5 && parts[1] == 2 && octet(parts[2]) && octet(parts[3]) && octet(parts[4]):
		return directColour | colour(parts[2]<<16|parts[3]<<8|parts[4]), true
	}
	return 0, false
}

// sgrCode is the style after one code that stands alone.
func (s style) sgrCode(code int) style {
	switch {
	case code == 0:
		return style{}
	case code == 1:
		s.attr |= bold
	case code == 2:
		s.attr |= faint
	case code == 3:
		s.attr |= italic
	case code == 7:
		s.attr |= inverse
	case code == 9:
		s.attr |= struck
	case code == 22:
		s.attr &^= bold | faint
	case code == 23:
		s.attr &^= italic
	case code == 24:
		s.attr &^= underline
	case code == 27:
		s.attr &^= inverse
	case code == 29:
		s.attr &^= struck
	case code >= 30 && code <= 37:
		s.fg = paletteColour | colour(code-30)
	case code == 39:
		s.fg = 0
	case code >= 40 && code <= 47:
		s.bg = paletteColour | colour(code-40)
	case code == 49:
		s.bg = 0
	case code >= 90 && code <= 97:
		s.fg = paletteColour | colour(code-90+8)
	case code >= 100 && code <= 107:
		s.bg = paletteColour | colour(code-100+8)
	}
	return s
}
