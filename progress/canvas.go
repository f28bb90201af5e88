package progress

import "strconv"

// canvas is the part of a terminal that a view is drawn on: its last lines. The
// cursor rests at the end of the last one, or at the beginning of an empty line
// when there is none.
//
// Only sequences are used that terminals since the VT100 know (cursor up, erase,
// wrapping on and off), and the synchronised output that others ignore.
type canvas struct {
	drawn   []string // rows as they were written
	widths  []int    // how many columns each takes
	width   int      // of the terminal when they were
	height  int
	scratch []byte
}

const (
	beginUpdate = "\x1b[?2026h"
	endUpdate   = "\x1b[?2026l"
	wrapOff     = "\x1b[?7l"
	wrapOn      = "\x1b[?7h"
	eraseLine   = "\x1b[K"
	eraseBelow  = "\x1b[J"
)

// forget makes the next drawing begin where the cursor is. What was drawn stays
// on the terminal.
func (c *canvas) forget() { c.drawn, c.widths = nil, nil }

// draw appends what puts rows in the place of those drawn before, with above,
// whole lines of text, before them. That is nothing at all when nothing changes.
func (c *canvas) draw(dst, above []byte, rows []*row, width, height int, colours bool) []byte {
	lines := make([]string, len(rows))
	for i, r := range rows {
		c.scratch = r.appendTo(c.scratch[:0], colours)
		// What did not change keeps its string.
		if i < len(c.drawn) && c.drawn[i] == string(c.scratch) {
			lines[i] = c.drawn[i]
		} else {
			lines[i] = string(c.scratch)
		}
	}
	resized := len(c.drawn) > 0 && (width != c.width || height != c.height)
	if len(above) == 0 && !resized && same(lines, c.drawn) {
		return dst
	}

	dst = append(dst, beginUpdate...)
	dst = c.home(dst, width, height)
	keep := len(above) == 0 && !resized
	if !keep {
		dst = append(append(dst, eraseBelow...), above...)
	}
	dst = append(dst, wrapOff...)
	for i, line := range lines {
		last := i == len(lines)-1
		if last || !keep || i >= len(c.drawn) || c.drawn[i] != line {
			dst = append(append(dst, line...), eraseLine...)
		}
		if !last {
			dst = append(dst, '\r', '\n')
		}
	}
	dst = append(dst, eraseBelow...)
	dst = append(append(dst, wrapOn...), endUpdate...)

	c.drawn, c.width, c.height, c.widths = lines, width, height, c.widths[:0]
	for _, r := range rows {
		c.widths = append(c.widths, r.width)
	}
	return dst
}

// home appends what moves the cursor to where the first drawn row begins. Most
// terminals break lines again that have become too long when they get narrower.
func (c *canvas) home(dst []byte, width, height int) []byte {
	up := -1
	for _, w := range c.widths {
		up += max(1, (w+width-1)/width)
	}
	dst = append(dst, '\r')
	if up = min(up, height-1); up > 0 {
		dst = append(dst, "\x1b["...)
		dst = strconv.AppendInt(dst, int64(up), 10)
		dst = append(dst, 'A')
	}
	return dst
}

func same(a, b []string) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}
