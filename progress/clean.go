package progress

import (
	"bytes"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/width"
)

// maxMarks is how many characters without a width may follow each other: a
// thousand accents on one letter cover the lines around it.
const maxMarks = 8

// cleaned gives the parts of one line, as a program printed it, that a terminal
// may be shown: valid UTF-8 without control characters, each part with the style
// that SGR sequences before it ask for. All other escape sequences are left out,
// and with them what they carry (titles, hyperlinks' targets, images). So are
// characters that turn the direction of writing around, with which text can look
// like another. Tabs become spaces. A carriage return starts the line again.
//
// emit must not keep the slice.
func cleaned(line []byte, emit func(text []byte, st style)) {
	line = bytes.TrimRight(line, "\r\n")
	if i := bytes.LastIndexByte(line, '\r'); i >= 0 {
		line = line[i+1:]
	}
	var (
		st     style
		column int
		marks  int
		spaces = []byte("        ")
	)
	for len(line) > 0 {
		n := 0
		for n < len(line) && line[n] >= ' ' && line[n] <= '~' {
			n++
		}
		if n > 0 {
			emit(line[:n], st)
			column, marks, line = column+n, 0, line[n:]
			continue
		}
		switch c := line[0]; {
		case c == 0x1b:
			var params []byte
			params, line = escape(line)
			if params != nil {
				st = st.sgr(params[1:])
			}
		case c == '\t':
			n := 8 - column%8
			emit(spaces[:n], st)
			column, marks, line = column+n, 0, line[1:]
		case c < utf8.RuneSelf:
			line = line[1:]
		default:
			r, size := utf8.DecodeRune(line)
			text := line[:size]
			line = line[size:]
			if r == utf8.RuneError {
				text = []byte("\uFFFD")
			}
			if !showable(r) {
				continue
			}
			w := runeCells(r)
			if w == 0 {
				if marks++; marks > maxMarks || column == 0 {
					continue
				}
			} else {
				marks = 0
			}
			emit(text, st)
			column += w
		}
	}
}

// escape takes an escape sequence off the beginning of a line (ECMA-48, 5.4 and
// 5.6; xterm's end of strings by BEL). The parameters are set, with an "[" before
// them, if it is one that sets the style. A sequence that the line ends in the
// middle of is taken whole.
func escape(line []byte) (params, rest []byte) {
	if len(line) < 2 {
		return nil, nil
	}
	switch c := line[1]; {
	case c == '[':
		i := 2
		for i < len(line) && line[i] >= 0x30 && line[i] <= 0x3f {
			i++
		}
		end := i
		for i < len(line) && line[i] >= 0x20 && line[i] <= 0x2f {
			i++
		}
		if i == len(line) {
			return nil, nil
		}
		if line[i] < 0x40 || line[i] > 0x7e {
			return nil, line[i:] // no sequence: a terminal would go on from here
		}
		if line[i] == 'm' && end == i && !bytes.ContainsAny(line[2:end], "<=>?") {
			params = line[1:end]
		}
		return params, line[i+1:]
	case c == ']' || c == 'P' || c == 'X' || c == '^' || c == '_':
		for i := 2; i < len(line); i++ {
			switch {
			case line[i] == '\a':
				return nil, line[i+1:]
			case line[i] == 0x1b && i+1 < len(line) && line[i+1] == '\\':
				return nil, line[i+2:]
			case line[i] == 0x1b:
				return nil, line[i:]
			}
		}
		return nil, nil
	case c >= 0x20 && c <= 0x2f:
		i := 2
		for i < len(line) && line[i] >= 0x20 && line[i] <= 0x2f {
			i++
		}
		if i < len(line) && line[i] >= 0x30 && line[i] <= 0x7e {
			i++
		}
		return nil, line[i:]
	case c >= 0x30 && c <= 0x7e:
		return nil, line[2:]
	}
	return nil, line[1:]
}

const (
	zeroWidthNonJoiner = '\u200c'
	zeroWidthJoiner    = '\u200d'
)

// showable tells whether a character beyond ASCII may reach a terminal.
func showable(r rune) bool {
	switch {
	case r < 0xa0:
		return false // control characters of eight bits
	case r == zeroWidthJoiner || r == zeroWidthNonJoiner:
		return true
	}
	return !unicode.In(r, unicode.Cf, unicode.Zl, unicode.Zp, unicode.Cs)
}

// runeCells is how many cells of a terminal a character takes: 2 for wide ones
// (Unicode Standard Annex #11), 0 for those that go onto the one before.
// Characters of ambiguous width take one, as they do outside of East Asia.
func runeCells(r rune) int {
	switch {
	case r < 0x300:
		return 1
	case r == zeroWidthJoiner || r == zeroWidthNonJoiner || r >= 0x1160 && r <= 0x11ff || unicode.In(r, unicode.Mn, unicode.Me):
		return 0
	}
	if k := width.LookupRune(r).Kind(); k == width.EastAsianWide || k == width.EastAsianFullwidth {
		return 2
	}
	return 1
}

// isPlain tells whether a line has nothing that cleaning would take away or
// change.
func isPlain(line []byte) bool {
	for _, c := range line {
		if c < ' ' || c > '~' {
			return false
		}
	}
	return true
}
