// Command bench measures kiln against real Nix. All build the same derivations
// in turns, in one run, so that whatever else the machine does falls on both;
// what counts are the ratios.
//
// Every measurement has a fresh copy of its store, made before the clock starts
// and checked after it stopped: all outputs valid, with the same archive hashes
// from all. Anything else is reported as failed, and not as fast. Stores are in
// memory: on a disk the file system's own bookkeeping, of files that were deleted
// minutes ago, decides the figures.
//
// As root the builders run as build users, as a daemon's do, and each program
// has its own in a mount namespace of this run (see internal/enclave). An
// ordinary user measures builds as that user, in stores below TMPDIR.
//
// The Nix that is measured is that of PATH. Root can have further ones beside it, as
// .ci/peer provides them. The program fails if something could not be measured, and
// if kiln takes more than any of them for anything.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/kilnbuild/kiln/internal/enclave"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == measureArg {
		os.Exit(measureChild(os.Args[2:]))
	}
	if len(os.Args) > 2 && os.Args[1] == crowdArg {
		if err := crowd(os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	var opts options
	var peerList string
	flag.StringVar(&opts.kiln, "kiln", "./kiln", "the kiln to measure")
	run := flag.String("run", ".", "only the items that match this regular expression; -list names them")
	flag.StringVar(&peerList, "peers", "", "root directories of further releases of Nix, separated by colons, as .ci/peer prints them (root only)")
	sizes := flag.String("sizes", "", "also print what memory kiln's server takes, and copies to and from every kind of store, for objects of so many MiB, as 100,1024,4096")
	list := flag.Bool("list", false, "name the items and what they are")
	flag.IntVar(&opts.rounds, "rounds", 5, "how often each program is measured for an item")
	flag.Float64Var(&opts.scale, "scale", 1, "size of the work, of which 1 is what the aims are about")
	flag.Parse()
	var err error
	if opts.run, err = regexp.Compile(*run); err == nil && *list {
		listItems(os.Stdout)
		return
	}
	if err == nil {
		opts.peers, err = peers(peerList)
	}
	for size := range strings.FieldsFuncSeq(*sizes, func(c rune) bool { return c == ',' }) {
		n, perr := strconv.Atoi(size)
		if perr != nil || n < 1 {
			err = errors.Join(err, fmt.Errorf("-sizes: '%s' is no number of MiB", size))
		}
		opts.sizes = append(opts.sizes, n)
	}
	ok := false
	if err == nil {
		ok, err = start(opts)
	}
	if err != nil {
		fmt.Fprintf(os.Stderr, "bench: %v\n", err)
	}
	if !ok {
		os.Exit(1)
	}
}

// options are the command line's.
type options struct {
	kiln   string
	run    *regexp.Regexp
	rounds int
	scale  float64
	sizes  []int    // of objects, in MiB
	peers  []string // root directories with further versions of Nix
}

// peers are the root directories that a list names.
func peers(text string) ([]string, error) {
	var roots []string
	for _, root := range filepath.SplitList(text) {
		if !filepath.IsAbs(root) || !isPeer(root) {
			return nil, fmt.Errorf("-peers: '%s' is not the root directory of a system with Nix in /usr/bin; .ci/peer 2.34 makes one", root)
		}
		roots = append(roots, filepath.Clean(root))
	}
	return roots, nil
}

// start measures where root gets build users of its own, and others do not. It
// tells whether every measurement was one, and kiln within its bounds.
func start(opts options) (bool, error) {
	if opts.rounds < 1 || opts.scale <= 0 {
		return false, errors.New("-rounds and -scale must be positive")
	}
	kiln, err := filepath.Abs(opts.kiln)
	if err != nil {
		return false, err
	}
	opts.kiln = kiln
	for _, program := range []string{kiln, "nix-store", "nix-instantiate", "busybox"} {
		if _, err := exec.LookPath(program); err != nil {
			return false, fmt.Errorf("%w: make bench installs what it needs, as root", err)
		}
	}
	if os.Geteuid() == 0 {
		groups := []string{"kbkiln", "kbnix"}
		for i := range opts.peers {
			groups = append(groups, fmt.Sprintf("kbpeer%d", i))
		}
		status, err := enclave.Run(enclave.Options{Groups: groups, Size: opts.room()}, func(e *enclave.Enclave) int {
			ok, err := measureAll(opts, e.Dir, groups)
			if err != nil {
				fmt.Fprintf(os.Stderr, "bench: %v\n", err)
			}
			if ok {
				return 0
			}
			return 1
		})
		return status == 0, err
	}
	if len(opts.peers) > 0 {
		return false, errors.New("-peers: only root can give programs another root directory")
	}
	fmt.Println("Not root: builders run as this user, without build users, in stores below TMPDIR.")
	dir, err := os.MkdirTemp("", "kiln-bench-")
	if err != nil {
		return false, err
	}
	defer removeTree(dir)
	return measureAll(opts, dir, []string{"", ""})
}

// room is how large the directory in memory has to be, "" for as large as usual: an object
// of -sizes is in it three times, where it comes from, in a cache, and copied back.
func (o *options) room() string {
	if len(o.sizes) == 0 {
		return ""
	}
	return fmt.Sprintf("%dm", 3*slices.Max(o.sizes)+(4<<10))
}

// measureAll measures all chosen items and prints the table. groups are those of
// the build users of kiln, of Nix and of the peers.
func measureAll(opts options, dir string, groups []string) (bool, error) {
	b, err := newBench(opts, dir)
	if err != nil {
		return false, err
	}
	var subjects []*subject
	for i, root := range append([]string{""}, opts.peers...) {
		s, err := newNix(b, root, groups[i+1])
		if err != nil {
			return false, err
		}
		subjects = append(subjects, s)
	}
	kiln := &subject{name: "kiln", program: []string{opts.kiln, "build"}, group: groups[0], bench: b}
	version, err := kiln.version(opts.kiln)
	if err != nil {
		return false, err
	}
	subjects = append(subjects, kiln)
	fmt.Println(version)
	fmt.Println(machine())
	var rows []row
	for _, it := range items {
		if opts.run.MatchString(it.name) {
			rows = append(rows, b.measure(it, subjects))
		}
	}
	million := opts.run.MatchString(millionItem)
	offered := opts.run.MatchString(serviceItem)
	if len(rows) == 0 && !million && !offered && len(opts.sizes) == 0 {
		return false, errors.New("no item matches -run; -list names them")
	}
	if len(rows) > 0 {
		fmt.Print(table(subjects, rows))
	}
	if opts.run.MatchString(scannerItem) {
		text, err := scannerNote()
		if err != nil {
			return false, err
		}
		fmt.Print(text)
	}
	ok := true
	if million {
		text, met, err := b.millionNote(opts.kiln)
		if err != nil {
			return false, err
		}
		fmt.Print(text)
		ok = met
	}
	if offered {
		text, met, err := b.serviceNote(kiln)
		if err != nil {
			return false, err
		}
		fmt.Print(text)
		ok = ok && met
	}
	for _, note := range []struct {
		name string
		make func(kiln string, sizes []int) (string, bool, error)
	}{{sizesItem, b.sizesNote}, {copiedSizesItem, b.copiedSizesNote}} {
		// Both, unless -run has one of them.
		if len(opts.sizes) == 0 || opts.run.MatchString(sizesItem) != opts.run.MatchString(copiedSizesItem) && !opts.run.MatchString(note.name) {
			continue
		}
		text, same, err := note.make(opts.kiln, opts.sizes)
		if err != nil {
			return false, err
		}
		fmt.Print(text)
		ok = ok && same
	}
	for _, r := range rows {
		ok = ok && r.failure == nil
	}
	if opts.scale != 1 {
		return ok, nil
	}
	text, within := verdict(subjects, rows)
	fmt.Print(text)
	return ok && within, nil
}

// machine says on what it was measured, as far as that matters.
func machine() string {
	model := "unknown processor"
	if text, err := os.ReadFile("/proc/cpuinfo"); err == nil {
		for line := range strings.Lines(string(text)) {
			if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
				model = strings.TrimSpace(value)
				break
			}
		}
	}
	release, _ := os.ReadFile("/proc/sys/kernel/osrelease")
	return fmt.Sprintf("on    %d × %s, Linux %s\n", runtime.NumCPU(), model, strings.TrimSpace(string(release)))
}
