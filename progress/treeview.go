package progress

import (
	"bytes"
	"fmt"
	"time"
)

// Heights and widths that parts of the tree's view need, in cells.
const (
	roomForRule    = 10 // rows
	roomForColumns = 60 // columns
	meterWidth     = 10
	maxPhase       = 16
)

// tree is a rule that shows how much is done, the goals as a tree, and their
// totals.
func (p *painter) tree(height int) {
	gs := p.gs
	if all := gs.unfinished(); all > 0 {
		size := height - 3
		if height >= roomForRule && gs.unfinished()+gs.ended() > 1 {
			p.rule()
			size--
		}
		branches := gs.tree(max(size, 1), max(height/2, 1), p.width/2, p.glyph)
		at := p.columns(branches)
		for _, b := range branches {
			p.branch(b, at)
		}
		if more := all - len(branches); more > 0 {
			p.row().add(dim, fmt.Sprintf("%s and %d more", p.glyph.ellipsis, more))
		}
	}
	p.totals(p.row())
}

// rule is a line over the whole width: what is done, what failed, what is under
// way, and the rest.
func (p *painter) rule() {
	gs, r := p.gs, p.row()
	r.meter(p.width, uint64(gs.ended()+gs.unfinished()),
		portion{uint64(gs.built + gs.fetched), good, p.glyph.full},
		portion{uint64(gs.failed + gs.dropped), failure, p.glyph.lost},
		portion{uint64(gs.building + gs.fetching), busy, p.glyph.half})
}

// columns are where parts of the rows stand below each other; all is 0 where
// there is too little room for that.
type columns struct {
	details int // the column in which they begin
	phase   int // the width of that part, 0 if nobody has one
}

// columns looks at what the rows will have. Names longer than two fifths of the
// row stand out.
func (p *painter) columns(branches []branch) columns {
	var c columns
	if p.width < roomForColumns {
		return c
	}
	most := p.width * 2 / 5
	for _, b := range branches {
		if !b.goal.active() {
			continue
		}
		r := newRow(p.width, p.glyph)
		p.head(r, b)
		if r.width <= most {
			c.details = max(c.details, r.width)
		}
		c.phase = max(c.phase, newRow(maxPhase, p.glyph).addForeign(plain, []byte(b.goal.phase)).width)
		if p.hasMeter(b.goal) {
			c.phase = max(c.phase, meterWidth)
		}
	}
	return c
}

// hasMeter tells whether a goal's row shows how much of a download there is.
func (p *painter) hasMeter(g *goal) bool {
	return g.state == fetching && g.expected > 0 && p.width >= roomForColumns
}

// head is the first part of a goal's row: where it hangs, its sign and its name.
func (p *painter) head(r *row, b branch) {
	r.add(dim, b.prefix)
	if b.between > 0 {
		r.add(dim, p.glyph.ellipsis+" ")
	}
	switch b.goal.state {
	case building:
		r.add(busy, p.glyph.building).add(strong, " "+b.goal.name())
	case fetching:
		r.add(remote, p.glyph.load).add(strong, " "+b.goal.name())
	default:
		r.add(dim, p.glyph.waiting+" "+b.goal.name())
	}
}

// branch is the row of one goal.
func (p *painter) branch(b branch, at columns) {
	g := b.goal
	if !g.active() {
		r := p.row()
		p.head(r, b)
		if g.note != "" {
			r.add(warning, "  ").addForeign(warning, []byte(g.note))
		}
		return
	}
	r := p.lined(p.now.Sub(g.began))
	p.head(r, b)
	r.pad(at.details)
	if at.phase > 0 || g.phase != "" {
		r.add(plain, "  ")
		begin := r.width
		switch {
		case p.hasMeter(g):
			r.meter(meterWidth, g.expected, portion{g.done, remote, p.glyph.full})
		case g.phase != "":
			r.join(newRow(maxPhase, p.glyph).addForeign(good, []byte(g.phase)))
		}
		r.pad(begin + at.phase)
	}
	if g.done > 0 || g.expected > 0 {
		r.add(plain, "  ").add(remote, progressBytes(g.done, g.expected))
	}
	if g.note != "" {
		r.add(plain, "  ").addForeign(dim, []byte(g.note))
	}
	if line := bytes.TrimLeft(g.tail.last(), " \t"); len(line) > 0 {
		r.add(plain, "  ").addForeign(dim, line)
	}
}

// totals counts the goals, with words if there is room for them.
func (p *painter) totals(r *row) {
	elapsed := p.now.Sub(p.gs.began)
	if p.gs.began.IsZero() {
		p.rows = p.rows[:len(p.rows)-1]
		return
	}
	r.reserve(plain, seconds(elapsed))
	if words := newRow(r.max, p.glyph); !p.counts(words, true).cut {
		r.join(words)
		return
	}
	p.counts(r, false)
}

// final is the totals in the form that stays on the terminal.
func (p *painter) final(r *row, elapsed time.Duration) {
	if p.counts(r, true); r.width > 0 {
		r.add(dim, p.glyph.separator)
	}
	r.add(plain, seconds(elapsed))
}

func (p *painter) counts(r *row, words bool) *row {
	gs := p.gs
	item := func(n int, st style, sign, word string) {
		if n == 0 {
			return
		}
		if r.width > 0 {
			r.add(dim, p.glyph.separator)
		}
		r.add(st, fmt.Sprintf("%s %d", sign, n))
		if words {
			r.add(plain, " "+word)
		}
	}
	item(gs.building, busy, p.glyph.building, "building")
	item(gs.fetching, remote, p.glyph.load, "fetching")
	item(gs.waiting+gs.unknown, dim, p.glyph.waiting, "waiting")
	item(gs.built, good, p.glyph.done, "built")
	item(gs.fetched, good, p.glyph.load, "fetched")
	item(gs.failed, bad, p.glyph.failed, "failed")
	if words {
		item(gs.dropped, dim, p.glyph.failed, "given up")
	}
	done, expected, any := gs.transfers()
	if perSecond := gs.rate.observe(p.now, done); any {
		r.add(dim, p.glyph.separator).add(remote, progressBytes(done, expected))
		if perSecond > 0 {
			r.add(plain, " "+size(uint64(perSecond))+"/s")
			if left, ok := gs.left(perSecond); ok {
				r.add(plain, ", "+seconds(left)+" left")
			}
		}
	}
	return r
}
