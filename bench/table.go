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

// table prints medians. Each ratio is kiln's figure over Nix's: below 1 kiln is
// faster or smaller.
func table(rows []row) string {
	var b, notes strings.Builder
	fmt.Fprintf(&b, "\n%-22s  %26s  %26s  %26s\n", "", "wall ms", "CPU ms", "peak RSS MiB")
	fmt.Fprintf(&b, "%-22s", "")
	for range 3 {
		fmt.Fprintf(&b, "  %9s %9s %6s", "nix", "kiln", "ratio")
	}
	b.WriteByte('\n')
	for _, r := range rows {
		name := r.item.name
		if r.unit > 1 {
			name += fmt.Sprintf(" (1 of %d)", r.unit)
		}
		fmt.Fprintf(&b, "%-22s", name)
		if r.failure != nil {
			fmt.Fprintf(&b, "  FAILED %v\n", r.failure)
			continue
		}
		nix, kiln := r.costs["nix"], r.costs["kiln"]
		perUnit := func(d time.Duration) float64 { return d.Seconds() * 1000 / float64(r.unit) }
		mib := func(n int64) float64 { return float64(n) / (1 << 20) }
		figures(&b, perUnit(median(nix, wall)), perUnit(median(kiln, wall)))
		figures(&b, perUnit(median(nix, cpu)), perUnit(median(kiln, cpu)))
		figures(&b, mib(median(nix, rss)), mib(median(kiln, rss)))
		b.WriteByte('\n')
		if r.item.aim != (aim{}) {
			notes.WriteString(r.aimNote(ratio(float64(median(nix, wall)), float64(median(kiln, wall))), mib(median(kiln, rss))))
		}
		if len(r.alone) > 0 {
			alone := median(r.alone, wall)
			fmt.Fprintf(&notes, "%s: the builder alone takes %.0f ms; what is above it: nix %.0f, kiln %.0f, ratio %.2f\n", r.item.name, perUnit(alone),
				perUnit(median(nix, wall)-alone), perUnit(median(kiln, wall)-alone), ratio(float64(median(nix, wall)-alone), float64(median(kiln, wall)-alone)))
		}
	}
	fmt.Fprintf(&b, "\nMedians; ratio is kiln over nix, below 1 is better. CPU counts all processes that were waited for; RSS is the\n")
	fmt.Fprintf(&b, "most that one process had, and cannot be less than this program's own few MiB.\n%s", notes.String())
	return b.String()
}

// aimNote tells whether kiln is where it has to be.
func (r row) aimNote(wall, rss float64) string {
	var b strings.Builder
	verdict := map[bool]string{true: "met", false: "MISSED"}
	if want := r.item.aim.wall; want > 0 {
		fmt.Fprintf(&b, "%s: aim of %.2f of Nix's wall: %s\n", r.item.name, want, verdict[wall <= want])
	}
	if want := r.item.aim.rss; want > 0 {
		fmt.Fprintf(&b, "%s: aim of %.0f MiB at most: %s\n", r.item.name, want, verdict[rss <= want])
	}
	return b.String()
}

func figures(b *strings.Builder, nix, kiln float64) {
	fmt.Fprintf(b, "  %9.1f %9.1f %6.2f", nix, kiln, ratio(nix, kiln))
}

func ratio(nix, kiln float64) float64 {
	if nix <= 0 {
		return 0
	}
	return kiln / nix
}
