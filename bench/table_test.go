package main

import (
	"errors"
	"strings"
	"testing"
	"time"
)

func TestTable(t *testing.T) {
	costs := func(ms ...int) (cs []cost) {
		for _, m := range ms {
			d := time.Duration(m) * time.Millisecond
			cs = append(cs, cost{Wall: d, CPU: d / 2, RSS: int64(m) << 20})
		}
		return cs
	}
	got := table([]row{
		{
			item: item{name: "quick", aim: aim{wall: 0.5, rss: 50}}, unit: 10, alone: costs(100),
			costs: map[string][]cost{"nix": costs(200, 900, 100), "kiln": costs(80, 120, 101, 99)},
		},
		{item: item{name: "broken"}, unit: 1, failure: errors.New("no such luck")},
	})
	for _, want := range []string{
		"quick (1 of 10)              20.0      10.0   0.50       10.0       5.0   0.50      200.0     100.0   0.50\n",
		"broken                  FAILED no such luck\n",
		"quick: aim of 0.50 of Nix's wall: met\n",
		"quick: aim of 50 MiB at most: MISSED\n",
		"quick: the builder alone takes 10 ms; what is above it: nix 10, kiln 0, ratio 0.00\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("the table lacks %q:\n%s", want, got)
		}
	}
}

func TestItems(t *testing.T) {
	seen := map[string]bool{}
	for _, it := range items {
		if seen[it.name] || it.what == "" || it.expr == "" || it.jobs < 1 {
			t.Errorf("item %q is double or not complete", it.name)
		}
		seen[it.name] = true
		if n := it.scaled(0.0001); n < 1 {
			t.Errorf("%s scales down to %d", it.name, n)
		}
		if it.unit(1) < 1 {
			t.Errorf("%s has the unit %d", it.name, it.unit(1))
		}
	}
}
