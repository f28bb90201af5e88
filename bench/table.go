package main

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// median of a figure over the rounds.
func median[T time.Duration | int64](costs []cost, figure func(cost) T) T {
	var values []T
	for _, c := range costs {
		values = append(values, figure(c))
	}
	slices.Sort(values)
	n := len(values)
	if n == 0 {
		return 0
	}
	return (values[(n-1)/2] + values[n/2]) / 2
}

func wall(c cost) time.Duration { return c.Wall }
func cpu(c cost) time.Duration  { return c.CPU }
func rss(c cost) int64          { return c.RSS }

// milliseconds of a duration for each of n units.
func milliseconds(d time.Duration, n int) float64 { return d.Seconds() * 1000 / float64(n) }

func mebibytes(n int64) float64 { return float64(n) / (1 << 20) }

// A figure is one of those that a row has of each subject.
type figure struct {
	title string // with its unit
	short string
	// half tells whether kiln is to have half of what the first Nix has. Memory has
	// aims of its own: a program has a size before it does anything.
	half bool
	of   func(r row, costs []cost) float64
}

var figures = []figure{
	{title: "wall ms", short: "wall", half: true, of: func(r row, costs []cost) float64 { return milliseconds(median(costs, wall), r.unit) }},
	{title: "CPU ms", short: "CPU", half: true, of: func(r row, costs []cost) float64 { return milliseconds(median(costs, cpu), r.unit) }},
	{title: "peak RSS MiB", short: "RSS", of: func(_ row, costs []cost) float64 { return mebibytes(median(costs, rss)) }},
}

// split gives the subjects that kiln is compared with, and kiln, the last.
func split(subjects []*subject) (others []*subject, kiln *subject) {
	n := len(subjects) - 1
	return subjects[:n], subjects[n]
}

// against is kiln's figure over that of another subject.
func (r row) against(f figure, kiln, other *subject) float64 {
	return ratio(f.of(r, r.costs[kiln.name]), f.of(r, r.costs[other.name]))
}

// table prints medians, a block for each figure. The last subject is kiln; each
// ratio is its figure over that of one of the others: below 1 kiln is faster or
// smaller.
func table(subjects []*subject, rows []row) string {
	var b strings.Builder
	others, kiln := split(subjects)
	for _, f := range figures {
		fmt.Fprintf(&b, "\n%-22s", f.title)
		for _, s := range subjects {
			fmt.Fprintf(&b, "  %10s", s.name)
		}
		for _, s := range others {
			fmt.Fprintf(&b, "  %10s", "/"+strings.TrimPrefix(s.name, "nix "))
		}
		b.WriteByte('\n')
		for _, r := range rows {
			if r.failure != nil {
				continue
			}
			fmt.Fprintf(&b, "%-22s", r.title())
			for _, s := range subjects {
				fmt.Fprintf(&b, "  %10.1f", f.of(r, r.costs[s.name]))
			}
			for _, s := range others {
				fmt.Fprintf(&b, "  %10.2f", r.against(f, kiln, s))
			}
			b.WriteByte('\n')
		}
	}
	fmt.Fprintf(&b, "\nMedians. The columns that begin with / are kiln's figure over that Nix's: below 1 is better. CPU is user and system of\n")
	fmt.Fprintf(&b, "all processes; RSS is the most that one process had, or all of a daemon together, and cannot be less than this program's own few MiB.\n\n")
	for _, r := range rows {
		b.WriteString(r.notes(subjects, rows))
	}
	return b.String()
}

// title is the name of a row, with what its figures are divided by.
func (r row) title() string {
	if r.unit > 1 {
		return fmt.Sprintf("%s (1 of %d)", r.item.name, r.unit)
	}
	return r.item.name
}

func ratio(kiln, nix float64) float64 {
	if nix <= 0 {
		return 0
	}
	return kiln / nix
}
