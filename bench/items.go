package main

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
)

// An item is one kind of work.
type item struct {
	name string
	what string
	expr string // the attribute of work.nix
	size int    // its n at scale 1
	jobs int
	// per is the number of builds that the figures are divided by, at scale 1.
	per int
	// prepare makes files that the derivations want.
	prepare func(b *bench, n int) error
	// options are settings beyond those that all items have.
	options func(b *bench) map[string]string
	// alone names the script that is also measured without Nix or kiln.
	alone string
	// few names the item that is the same with fewer builds.
	few string
	// rounds is how often each program is measured at most: 0 means no bound. Nix
	// 2.34 takes minutes for hundreds of goals.
	rounds int
	// runs is how often the program is started in one measurement: 0 means once.
	runs int
	// valid builds everything before the clock starts.
	valid bool
	// chore makes work of another kind than building, in the place of expr.
	chore func(b *bench, n int) (*chore, error)
	// errand makes work for a daemon, in the place of expr.
	errand func(b *bench, n int) (*errand, error)
	aim    aim
}

// An aim is what kiln must not exceed at scale 1. Zero fields are no aims.
type aim struct {
	wall float64 // times Nix's
	rss  float64 // MiB
	goal float64 // KiB of peak memory for each further goal
	// of a daemon
	above  float64 // MiB of peak memory above that with nothing to do
	client float64 // kB of that for each client
}

// items are measured in this order.
var items = []item{
	{name: "trivial-j1", what: "independent builds of one word, one at a time", expr: "trivial", size: 100, per: 100, jobs: 1, aim: aim{wall: 0.7}},
	{name: "trivial-j2", what: "the same, two at a time", expr: "trivial", size: 100, per: 100, jobs: 2, aim: aim{wall: 0.7}},
	{name: "goals", what: "four hundred of them: what does a goal take of memory?", expr: "trivial", size: 400, per: 400, jobs: 2, rounds: 1, few: "trivial-j2", aim: aim{goal: 10}},
	{name: "chain", what: "builds each of which needs the one before", expr: "chain", size: 60, per: 60, jobs: 1},
	{name: "wide", what: "one build with a thousand input directories", expr: "directories", size: 1000, jobs: 1, prepare: inputDirectories},
	{name: "wide-texts", what: "one build with a thousand input files", expr: "texts", size: 1000, jobs: 1},
	{name: "files", what: "an output of 20,000 small files", expr: "files", size: 20000, jobs: 1, alone: "files"},
	{name: "large", what: "an output of 1 GiB", expr: "large", size: 1024, jobs: 1, alone: "large", prepare: seedFile, options: seedPath, aim: aim{wall: 1, rss: 64}},
	{name: scannerItem, what: "an output of 64 MiB of text made to slow a search for references down", expr: "hashes", size: 64, jobs: 1, alone: "hashes"},
	{name: "recursive-builds", what: "a builder that has Nix build 20 derivations", expr: "recursive-builds", size: 20, jobs: 1, options: recursion, aim: aim{wall: 0.5}},
	{name: "recursive-adds", what: "a builder that adds 200 files", expr: "recursive-adds", size: 200, jobs: 1, options: recursion},
	{name: "gc", what: "deleting 20,000 objects and keeping 5,000", chore: garbage, size: 20000, jobs: 1, rounds: 3, aim: aim{wall: 0.5}},
	{name: "gc-roots", what: "roots of 2,000 processes that map 50 files each", chore: mappings, size: 2000, jobs: 1, rounds: 3, aim: aim{wall: 0.5}},
	{name: "fetch-xz", what: "a path of 330 MB from a binary cache compressed by xz", chore: fetched("xz"), size: 330, jobs: 1, rounds: 5, aim: aim{wall: 0.8, rss: 54}},
	{name: "fetch-zstd", what: "the same by zstd", chore: fetched("zstd"), size: 330, jobs: 1, rounds: 5, aim: aim{wall: 0.5}},
	{name: "daemon-copy", what: "a path of 330 MB that real Nix copies to the daemon", errand: copied, size: 330, jobs: 1, rounds: 5, aim: aim{wall: 0.6, above: 7}},
	{name: "daemon-queries", what: "20,000 questions about objects, on one connection", errand: queries, size: 20000, jobs: 1, rounds: 5, aim: aim{wall: 0.5}},
	{name: "daemon-clients", what: "200 clients at once with 100 questions each", errand: multitude, size: 200, jobs: 1, rounds: 3, aim: aim{client: 200}},
	{name: "copy", what: "2,001 small objects from one store to another", chore: copies, size: 2000, jobs: 1, rounds: 5, aim: aim{wall: 0.34}},
	{name: "serve-add", what: "an object of 330 MiB that comes to nix-store --serve", chore: servedAdd, size: 330, jobs: 1, rounds: 3, aim: aim{wall: 0.6, rss: 28}},
	{name: "serve-dump", what: "the same, sent by it", chore: servedDump, size: 330, jobs: 1, rounds: 3, aim: aim{wall: 0.6, rss: 28}},
	{name: "start", what: "asking for an output that is there", expr: "trivial", size: 1, per: 10, jobs: 1, runs: 10, valid: true},
}

// scannerItem also measures the search itself.
const scannerItem = "scanner"

func listItems(w io.Writer) {
	for _, it := range items {
		fmt.Fprintf(w, "%-12s %s\n", it.name, it.what)
	}
	fmt.Fprintf(w, "%-12s %s\n", millionItem, "what is alive among a million objects: kiln alone")
	fmt.Fprintf(w, "%-12s %s\n", serviceItem, "builds over gRPC, 500 watchers of a log, and a daemon with nothing to do: kiln alone")
}

// scaled is the size of the item's work.
func (it item) scaled(scale float64) int {
	if it.valid {
		return it.size
	}
	return max(1, int(float64(it.size)*scale))
}

// unit is what the figures are divided by.
func (it item) unit(scale float64) int {
	switch {
	case it.runs > 0:
		return it.runs
	case it.per > 0:
		return it.scaled(scale)
	}
	return 1
}

// inputDirectories makes n directories that differ.
func inputDirectories(b *bench, n int) error {
	for i := range n {
		dir := b.path("inputs", strconv.Itoa(i))
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, "content"), []byte(strconv.Itoa(i)), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// seedFile makes a file of n/8 MiB that does not compress and has no hash of a
// store path in it.
func seedFile(b *bench, n int) error {
	f, err := os.Create(b.path("seed"))
	if err != nil {
		return err
	}
	random := rand.NewChaCha8([32]byte([]byte("the same bytes in every bench run")[:32]))
	_, err = io.CopyN(f, random, int64(n)<<20/8)
	return errors.Join(err, f.Close())
}

func seedPath(b *bench) map[string]string {
	return map[string]string{"sandbox-paths": "/bin/sh=" + b.busybox + " /seed=" + b.path("seed")}
}

// recursion lets builders call the Nix of the root directory that they are built in.
func recursion(b *bench) map[string]string {
	return map[string]string{
		"extra-experimental-features": "recursive-nix", "system-features": "recursive-nix",
		"sandbox-paths": "/bin/sh=" + b.busybox + " /usr=/usr /lib=/lib /lib64=/lib64?",
	}
}
