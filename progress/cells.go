package progress

import "unicode/utf8"

// cell is one character of a line with its looks.
type cell struct {
	r     rune
	width uint8 // 0, 1 or 2 columns
	style style
}

// row is one line of a view, at most so many columns wide.
type row struct {
	cells []cell
	width int // columns taken
	max   int
	cut   bool // something did not fit
	end   *row // what stands at the edge of the terminal, beyond max
	glyph *glyphs
}

func newRow(max int, g *glyphs) *row { return &row{max: max, glyph: g} }

// add appends text of our own, or of a store path.
func (l *row) add(st style, text string) *row {
	for _, r := range text {
		l.put(r, st)
	}
	return l
}

// addForeign appends text from a builder or from another machine.
func (l *row) addForeign(base style, text []byte) *row {
	cleaned(text, func(part []byte, st style) {
		st = st.over(base)
		for len(part) > 0 && !l.cut {
			r, n := utf8.DecodeRune(part)
			l.put(r, st)
			part = part[n:]
		}
	})
	return l
}

// put appends a character. The first that does not fit is replaced by an
// ellipsis, and nothing follows it.
func (l *row) put(r rune, st style) {
	if l.cut || l.max <= 0 {
		return
	}
	w := runeCells(r)
	if !l.glyph.unicode && r >= utf8.RuneSelf {
		r = '?'
	}
	if l.width+w <= l.max {
		l.cells = append(l.cells, cell{r, uint8(w), st})
		l.width += w
		return
	}
	l.cut = true
	ellipsis := []rune(l.glyph.ellipsis)
	if len(ellipsis) > l.max {
		ellipsis = ellipsis[:l.max]
	}
	for len(l.cells) > 0 && l.width+len(ellipsis) > l.max {
		l.width -= int(l.cells[len(l.cells)-1].width)
		l.cells = l.cells[:len(l.cells)-1]
	}
	for _, r := range ellipsis {
		l.cells = append(l.cells, cell{r, 1, dim})
		l.width++
	}
}

// reserve puts text at the edge of the terminal, behind all that is added. It is
// left out where there is little room.
func (l *row) reserve(st style, text string) {
	end := newRow(l.max, l.glyph).add(st, text)
	if room := l.max - end.width - 2; room >= minRoom {
		l.end, l.max = end, room
	}
}

// minRoom is how much room a row has for other things, in cells, if a part of it
// is reserved.
const minRoom = 20

// pad appends spaces up to a column.
func (l *row) pad(column int) *row {
	for l.width < column && !l.cut {
		l.put(' ', plain)
	}
	return l
}

// join appends another row.
func (l *row) join(other *row) *row {
	for _, c := range other.cells {
		l.put(c.r, c.style)
	}
	return l
}

// portion is a part of a meter.
type portion struct {
	size  uint64
	style style
	glyph string
}

// meter appends a line of so many cells that shows portions of a whole.
func (l *row) meter(cells int, whole uint64, portions ...portion) {
	var sum uint64
	n := 0
	for _, p := range portions {
		sum += p.size
		share := float64(sum) / float64(max(whole, 1))
		for ; n < int(share*float64(cells)+0.5) && n < cells; n++ {
			l.add(p.style, p.glyph)
		}
	}
	for ; n < cells; n++ {
		l.add(dim, l.glyph.empty)
	}
}

// finished is the row with all that belongs to it.
func (l *row) finished() *row {
	if l.end == nil {
		return l
	}
	whole := &row{cells: l.cells, width: l.width, max: l.max + l.end.width + 2, glyph: l.glyph}
	return whole.pad(whole.max - l.end.width).join(l.end)
}

// appendTo writes the row as a terminal takes it, without an end of line. It
// leaves the terminal's own style behind.
func (l *row) appendTo(dst []byte, colours bool) []byte {
	now := plain
	for _, c := range l.cells {
		if colours && c.style != now {
			dst = c.style.appendTo(dst)
			now = c.style
		}
		dst = utf8.AppendRune(dst, c.r)
	}
	if now != plain {
		dst = plain.appendTo(dst)
	}
	return dst
}

// glyphs are the signs that views are drawn with. All are one column wide, but
// for branches, separators and the ellipsis, which are ASCII or of one column a
// rune.
type glyphs struct {
	unicode                               bool
	building, waiting, done, failed, load string
	branch, last, pipe, gap               string
	separator, ellipsis, quote            string
	full, half, lost, empty               string // parts of a meter
}

var (
	unicodeGlyphs = glyphs{
		unicode: true, building: "●", waiting: "○", done: "✓", failed: "✗", load: "↓",
		branch: "├─ ", last: "└─ ", pipe: "│  ", gap: "   ", separator: " │ ", ellipsis: "…", quote: "│ ",
		full: "━", half: "╍", lost: "━", empty: "─",
	}
	asciiGlyphs = glyphs{
		building: "*", waiting: "-", done: "+", failed: "x", load: "v",
		branch: "|- ", last: "`- ", pipe: "|  ", gap: "   ", separator: " | ", ellipsis: "...", quote: "| ",
		full: "=", half: "~", lost: "x", empty: "-",
	}
)
