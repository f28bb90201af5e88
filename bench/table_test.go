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
	subjects := []*subject{{name: "nix 2.8.0"}, {name: "nix 2.34.8"}, {name: "kiln"}}
	few := item{name: "few"}
	got := table(subjects, []row{
		{
			item: item{name: "quick", aim: aim{wall: 0.5, rss: 50}}, unit: 10, alone: costs(100),
			costs: map[string][]cost{"nix 2.8.0": costs(200, 900, 100), "nix 2.34.8": costs(400), "kiln": costs(80, 120, 101, 99)},
		},
		{item: item{name: "broken"}, unit: 1, failure: errors.New("no such luck")},
		{item: few, unit: 1, units: 10, costs: map[string][]cost{"nix 2.8.0": costs(10), "nix 2.34.8": costs(20), "kiln": costs(5)}},
		{
			item: item{name: "many", few: "few", aim: aim{goal: 10}}, unit: 1, units: 1034,
			costs: map[string][]cost{"nix 2.8.0": costs(11), "nix 2.34.8": costs(220), "kiln": costs(16)},
		},
	})
	for _, want := range []string{
		"wall ms                  nix 2.8.0  nix 2.34.8        kiln      /2.8.0     /2.34.8\n",
		"quick (1 of 10)               20.0        40.0        10.0        0.50        0.25\n",
		"quick (1 of 10)               10.0        20.0         5.0        0.50        0.25\n",
		"quick (1 of 10)              200.0       400.0       100.0        0.50        0.25\n",
		"broken: FAILED no such luck\n",
		"quick: aim of 0.50 of the wall of nix 2.8.0: met\n",
		"quick: aim of 50 MiB at most: MISSED\n",
		"quick: the builder alone takes 10 ms; what is above it: nix 2.8.0 10, nix 2.34.8 30, kiln 0, ratio to the first 0.00\n",
		"many: peak memory for each goal more than few has: nix 2.8.0 1.0 KiB, nix 2.34.8 200.0 KiB, kiln 11.0 KiB, aim of 10 KiB: MISSED\n",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("the table lacks %q:\n%s", want, got)
		}
	}
}

func TestVerdict(t *testing.T) {
	costs := func(wall, cpu time.Duration, rss int64) []cost { return []cost{{Wall: wall, CPU: cpu, RSS: rss}} }
	subjects := []*subject{{name: "nix 2.8.0"}, {name: "nix 2.34.8"}, {name: "kiln"}}
	rows := []row{
		{item: item{name: "good"}, unit: 1, costs: map[string][]cost{"nix 2.8.0": costs(100, 100, 100), "nix 2.34.8": costs(300, 300, 300), "kiln": costs(40, 50, 100)}},
		{item: item{name: "so-so"}, unit: 1, costs: map[string][]cost{"nix 2.8.0": costs(100, 100, 100), "nix 2.34.8": costs(300, 300, 300), "kiln": costs(51, 100, 90)}},
		{item: item{name: "broken"}, unit: 1, failure: errors.New("no such luck")},
	}
	text, ok := verdict(subjects, rows)
	if want := "\nso-so: above half of nix 2.8.0: wall 0.51, CPU 1.00\n"; text != want || !ok {
		t.Errorf("the verdict is %v and %q, want %q", ok, text, want)
	}
	rows = append(rows, row{item: item{name: "bad"}, unit: 1, costs: map[string][]cost{"nix 2.8.0": costs(100, 100, 100), "nix 2.34.8": costs(10, 300, 300), "kiln": costs(20, 30, 150)}})
	text, ok = verdict(subjects, rows)
	for _, want := range []string{"bad: MORE THAN nix 2.8.0: RSS 1.50\n", "bad: MORE THAN nix 2.34.8: wall 2.00\n"} {
		if !strings.Contains(text, want) || ok {
			t.Errorf("the verdict is %v and lacks %q:\n%s", ok, want, text)
		}
	}
}

func TestScannerNote(t *testing.T) {
	text, err := scannerNote()
	if err != nil || strings.Count(text, "\n") != 9 || strings.Contains(text, " 0\n") {
		t.Errorf("%v, %s", err, text)
	}
}

func TestPeers(t *testing.T) {
	if got, err := peers(""); len(got) > 0 || err != nil {
		t.Errorf("none: %v, %v", got, err)
	}
	for _, bad := range []string{"relative", t.TempDir()} {
		if _, err := peers(bad); err == nil {
			t.Errorf("%s is taken for a root directory with Nix", bad)
		}
	}
}

func TestItems(t *testing.T) {
	seen := map[string]bool{}
	for _, it := range items {
		if seen[it.name] || it.what == "" || (it.expr == "") == (it.chore == nil && it.errand == nil) || it.jobs < 1 {
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
