package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestPrepareWords(t *testing.T) {
	for words, want := range map[string]string{
		"build --option cores 4 x":                       "build --option cores=4 x",
		"build --option cores":                           "build --option cores",
		"build --rebuild 3 x":                            "build --rebuild=3 x",
		"build --rebuild x":                              "build --rebuild x",
		"build --cores 4 --timeout=3 -j 2":               "build --cores 4 --timeout=3 -j 2",
		"build --fallback --no-fsync-metadata":           "build --option fallback=true --option fsync-metadata=false",
		"build --fallback=false":                         "build --option fallback=false",
		"build --extra-experimental-features a-b":        "build --option extra-experimental-features=a-b",
		"build --experimental-features=a":                "build --option experimental-features=a",
		"build --sandbox --no-sandbox --relaxed-sandbox": "build --option sandbox=true --option sandbox=false --option sandbox=relaxed",
		"build --substituters":                           "build --substituters",
		"build --extra-cores 3":                          "build --extra-cores 3",
		"build --no-cores":                               "build --no-cores",
		"build --store /x --json --help":                 "build --store /x --json --help",
		"build -- --fallback --option a b":               "build -- --fallback --option a b",
		"build --unknown 1":                              "build --unknown 1",
	} {
		got := prepareWords(rootCommand(), strings.Fields(words))
		if diff := cmp.Diff(strings.Fields(want), got); diff != "" {
			t.Errorf("%s: %s", words, diff)
		}
	}
}
