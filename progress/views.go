package progress

import (
	"bytes"
	"fmt"
	"strings"
	"time"
)

// frame is what a view shows now: rows narrower than the terminal, and fewer
// than it has.
func (d *Display) frame(now time.Time, width, height int) []*row {
	// The last column stays free: what is written there cannot be erased up to
	// the end of the line without itself.
	p := &painter{gs: d.goals, glyph: d.glyph, now: now, width: width - 1}
	switch d.base {
	case Tree:
		p.tree(height)
	case Multiline:
		p.multiline(height)
	case Bar:
		p.bar()
	}
	for i, r := range p.rows {
		p.rows[i] = r.finished()
	}
	return p.rows
}

// painter makes the rows of one frame.
type painter struct {
	gs    *goals
	glyph *glyphs
	now   time.Time
	width int
	rows  []*row
}

func (p *painter) row() *row {
	r := newRow(p.width, p.glyph)
	p.rows = append(p.rows, r)
	return r
}

// lined begins a row that ends with a time, at the edge of the terminal.
func (p *painter) lined(d time.Duration) *row {
	r := p.row()
	r.reserve(dim, seconds(d))
	return r
}

// multiline is the status, and one row for each goal that is built or fetched.
func (p *painter) multiline(height int) {
	gs := p.gs
	status := p.status()
	if status == "" {
		return
	}
	p.addStatus(p.lined(p.now.Sub(gs.began)), status)
	size := max(height-3, 1)
	for i, g := range gs.active {
		if i >= size {
			p.row().add(dim, fmt.Sprintf("%s and %d more", p.glyph.ellipsis, len(gs.active)-size))
			break
		}
		p.doing(p.lined(p.now.Sub(g.began)), g)
	}
}

// bar is the status, and the goal that said something last.
func (p *painter) bar() {
	status := p.status()
	g := p.gs.latest
	if g == nil && len(p.gs.active) > 0 {
		g = p.gs.active[len(p.gs.active)-1]
	}
	if status == "" && g == nil {
		return
	}
	r := p.row()
	p.addStatus(r, status)
	if g != nil {
		r.add(plain, " ")
		p.doing(r, g)
	}
}

// doing says in words what happens to a goal.
func (p *painter) doing(r *row, g *goal) {
	verb := "building "
	if g.state == fetching {
		verb = "fetching "
	}
	r.add(plain, verb).add(strong, g.name())
	if g.note != "" {
		r.add(plain, " ").addForeign(plain, []byte(g.note))
	}
	if g.phase != "" {
		r.add(plain, " (").addForeign(plain, []byte(g.phase)).add(plain, ")")
	}
	if g.done > 0 || g.expected > 0 {
		r.add(plain, " ").add(remote, progressBytes(g.done, g.expected))
	}
	if line := bytes.TrimLeft(g.tail.last(), " \t"); len(line) > 0 {
		r.add(plain, ": ").addForeign(plain, line)
	}
}

// status has the counts as Nix's bar has them: running, done, all.
func (p *painter) status() string {
	gs := p.gs
	var parts []string
	count := func(running, done, all, failed int, what string) {
		if all == 0 && failed == 0 {
			return
		}
		s := fmt.Sprintf("%d/%d", done, all)
		if running > 0 {
			s = fmt.Sprintf("%d/%s", running, s)
		} else if done == all {
			s = fmt.Sprint(done)
		}
		s += " " + what
		if failed > 0 {
			s += fmt.Sprintf(" (%d failed)", failed)
		}
		parts = append(parts, s)
	}
	count(gs.building, gs.built, gs.built+gs.building+gs.waiting+gs.unknown, gs.failed, "built")
	count(gs.fetching, gs.fetched, gs.fetched+gs.fetching, 0, "copied")
	if done, expected, any := gs.transfers(); any {
		parts = append(parts, progressBytes(done, expected)+" DL")
	}
	return strings.Join(parts, ", ")
}

// addStatus appends the status in its brackets: failures are red, the rest has
// the colour of work that goes well.
func (p *painter) addStatus(r *row, status string) {
	if status == "" {
		return
	}
	st := good
	if p.gs.failed > 0 {
		st = bad
	}
	r.add(plain, "[").add(st, status).add(plain, "]")
}

// seconds is a time for a row that is drawn again and again: whole seconds.
func seconds(d time.Duration) string {
	s := int(max(d, 0) / time.Second)
	switch {
	case s < 60:
		return fmt.Sprintf("%ds", s)
	case s < 3600:
		return fmt.Sprintf("%dm%02ds", s/60, s%60)
	}
	return fmt.Sprintf("%dh%02dm", s/3600, s/60%60)
}

// took is a time for a line that stays.
func took(d time.Duration) string {
	if d >= time.Minute {
		return seconds(d)
	}
	return fmt.Sprintf("%.1fs", max(d, 0).Seconds())
}

// byteUnits are what numbers of bytes are told in.
var byteUnits = []string{"B", "KiB", "MiB", "GiB", "TiB"}

// inUnit is a number of bytes in the largest unit that it reaches.
func inUnit(n uint64) (number string, unit string) {
	f, i := float64(n), 0
	for f >= 1024 && i < len(byteUnits)-1 {
		f /= 1024
		i++
	}
	if i == 0 {
		return fmt.Sprint(n), byteUnits[0]
	}
	return fmt.Sprintf("%.1f", f), byteUnits[i]
}

// size is a number of bytes as people read it.
func size(n uint64) string {
	number, unit := inUnit(n)
	return number + " " + unit
}

func progressBytes(done, expected uint64) string {
	if expected <= done {
		return size(done)
	}
	number, unit := inUnit(done)
	all, allUnit := inUnit(expected)
	if unit == allUnit {
		return number + "/" + all + " " + unit
	}
	return number + " " + unit + "/" + all + " " + allUnit
}
