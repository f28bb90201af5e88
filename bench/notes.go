package main

import (
	"fmt"
	"slices"
	"strings"
)

// notes is what there is to say of a row beside its figures.
func (r row) notes(subjects []*subject, rows []row) string {
	var b strings.Builder
	if r.failure != nil {
		fmt.Fprintf(&b, "%s: FAILED %v\n", r.item.name, r.failure)
		return b.String()
	}
	others, last := split(subjects)
	first, kiln := others[0], r.costs[last.name]
	if want := r.item.aim.wall; want > 0 {
		for _, other := range others {
			if other != first && r.item.errand == nil {
				break // what is built is compared with the first
			}
			got := ratio(float64(median(kiln, wall)), float64(median(r.costs[other.name], wall)))
			fmt.Fprintf(&b, "%s: aim of %.2f of the wall of %s: %s\n", r.item.name, want, other.name, met(got <= want))
		}
	}
	if r.item.errand != nil {
		b.WriteString(r.servedNotes(subjects))
	}
	if want := r.item.aim.rss; want > 0 {
		fmt.Fprintf(&b, "%s: aim of %.0f MiB at most: %s\n", r.item.name, want, met(mebibytes(median(kiln, rss)) <= want))
	}
	if len(r.alone) > 0 {
		alone := median(r.alone, wall)
		fmt.Fprintf(&b, "%s: the builder alone takes %.0f ms; what is above it:", r.item.name, milliseconds(alone, r.unit))
		for _, s := range subjects {
			fmt.Fprintf(&b, " %s %.0f,", s.name, milliseconds(median(r.costs[s.name], wall)-alone, r.unit))
		}
		fmt.Fprintf(&b, " ratio to the first %.2f\n", ratio(float64(median(kiln, wall)-alone), float64(median(r.costs[first.name], wall)-alone)))
	}
	b.WriteString(r.growth(subjects, rows))
	return b.String()
}

func met(ok bool) string {
	if ok {
		return "met"
	}
	return "MISSED"
}

// growth is what each further goal takes of memory, of an item that is another
// with more goals.
func (r row) growth(subjects []*subject, rows []row) string {
	var b strings.Builder
	i := slices.IndexFunc(rows, func(few row) bool { return few.item.name == r.item.few && few.failure == nil })
	if i < 0 || r.units <= rows[i].units {
		return ""
	}
	fmt.Fprintf(&b, "%s: peak memory for each goal more than %s has:", r.item.name, r.item.few)
	kiln := 0.0 // the last
	for _, s := range subjects {
		kiln = float64(median(r.costs[s.name], rss)-median(rows[i].costs[s.name], rss)) / (1 << 10) / float64(r.units-rows[i].units)
		fmt.Fprintf(&b, " %s %.1f KiB,", s.name, kiln)
	}
	fmt.Fprintf(&b, " aim of %.0f KiB: %s\n", r.item.aim.goal, met(kiln <= r.item.aim.goal))
	return b.String()
}

// verdict names, a line each, the rows where kiln takes more than half of what the
// first Nix takes, and those where it takes more than any Nix. ok tells that there
// are none of the latter.
func verdict(subjects []*subject, rows []row) (text string, ok bool) {
	others, kiln := split(subjects)
	var half, worse strings.Builder
	for _, r := range rows {
		if r.failure != nil {
			continue
		}
		var over []string
		for _, f := range figures {
			if got := r.against(f, kiln, others[0]); f.half && got > 0.5 {
				over = append(over, fmt.Sprintf("%s %.2f", f.short, got))
			}
		}
		if len(over) > 0 {
			fmt.Fprintf(&half, "%s: above half of %s: %s\n", r.item.name, others[0].name, strings.Join(over, ", "))
		}
		for _, other := range others {
			var over []string
			for _, f := range figures {
				if got := r.against(f, kiln, other); got > 1 {
					over = append(over, fmt.Sprintf("%s %.2f", f.short, got))
				}
			}
			if len(over) > 0 {
				fmt.Fprintf(&worse, "%s: MORE THAN %s: %s\n", r.item.name, other.name, strings.Join(over, ", "))
			}
		}
	}
	return "\n" + half.String() + worse.String(), worse.Len() == 0
}
