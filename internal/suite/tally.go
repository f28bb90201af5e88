package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"
)

// A tally counts outcomes and prints them as they come. The zero value is ready
// to use.
type tally struct {
	passed, failed, skipped int
	reasons                 map[string]int // why tests were skipped
	failures                []string
	who                     string // as whom tests are run, for the list of failures
}

// An event is a line of `go test -json`; see `go doc test2json`.
type event struct {
	Action     string
	Package    string
	ImportPath string // of build-output
	Test       string
	Elapsed    float64
	Output     string
}

// one counts something that is no Go test.
func (t *tally) one(name string, err error, output string, took time.Duration) {
	verdict := "ok  "
	if err == nil {
		t.passed++
	} else {
		t.failed++
		t.failures = append(t.failures, name)
		verdict = "FAIL"
	}
	fmt.Printf("%s  %-44s %6.1fs\n", verdict, name, took.Seconds())
	if err != nil {
		fmt.Printf("%s\n%v\n", strings.TrimRight(output, "\n"), err)
	}
}

// A testRun is a test, or all of a package, while it runs.
type testRun struct {
	output   strings.Builder
	children int
	failed   int // among the children
	counts   [3]int
}

// read counts the tests that `go test -json` reports on r, and prints a line for
// each package and the output of what failed.
func (t *tally) read(r io.Reader, w io.Writer) error {
	running := map[string]*testRun{}
	get := func(pkg, test string) *testRun {
		key := pkg + "\x00" + test
		if running[key] == nil {
			running[key] = &testRun{}
		}
		return running[key]
	}
	in := bufio.NewReader(r)
	for {
		line, err := in.ReadBytes('\n')
		if len(line) == 0 && err == io.EOF {
			return nil
		}
		if err != nil && err != io.EOF {
			return fmt.Errorf("read go test's report: %w", err)
		}
		var e event
		if json.Unmarshal(line, &e) != nil {
			fmt.Fprintf(w, "%s", line)
			continue
		}
		switch e.Action {
		case "output":
			get(e.Package, e.Test).output.WriteString(e.Output)
		case "build-output":
			fmt.Fprint(w, e.Output)
		case "run":
			if parent, _, ok := cutLast(e.Test); ok {
				get(e.Package, parent).children++
			}
		case "pass", "fail", "skip":
			run := get(e.Package, e.Test)
			if e.Test == "" {
				t.packageEnded(w, e, run)
			} else {
				t.testEnded(w, e, run, func(test string) *testRun { return get(e.Package, test) })
			}
			delete(running, e.Package+"\x00"+e.Test)
		}
	}
}

// withoutProgress is a test's output without the lines that only say that it
// started, paused or went on.
func withoutProgress(output string) string {
	var b strings.Builder
	for line := range strings.Lines(output) {
		if !strings.HasPrefix(line, "=== ") {
			b.WriteString(line)
		}
	}
	return b.String()
}

// cutLast splits a subtest's name from its parent's.
func cutLast(test string) (parent, name string, ok bool) {
	i := strings.LastIndexByte(test, '/')
	if i < 0 {
		return "", test, false
	}
	return test[:i], test[i+1:], true
}

// testEnded counts a test. One that has subtests is the sum of them, and counts
// only if it failed although none of them did.
func (t *tally) testEnded(w io.Writer, e event, run *testRun, get func(string) *testRun) {
	if parent, _, ok := cutLast(e.Test); ok && e.Action == "fail" {
		get(parent).failed++
	}
	pkg := get("")
	switch {
	case e.Action == "fail":
		fmt.Fprintf(w, "---- %s\n%s", short(e.Package), withoutProgress(run.output.String()))
		if run.children > 0 && run.failed > 0 {
			return
		}
		t.failed++
		pkg.counts[1]++
		t.failures = append(t.failures, t.who+": "+short(e.Package)+" "+e.Test)
	case run.children > 0:
	case e.Action == "skip":
		t.skipped++
		pkg.counts[2]++
		t.because(reason(run.output.String()))
	default:
		t.passed++
		pkg.counts[0]++
	}
}

// packageEnded prints a package's line. A package may fail without a test that
// did: it does not build, its process dies, or its TestMain says no.
func (t *tally) packageEnded(w io.Writer, e event, run *testRun) {
	if e.Action == "skip" {
		return // it has no tests
	}
	verdict := "ok  "
	if e.Action == "fail" {
		verdict = "FAIL"
		if run.counts[1] == 0 {
			t.failed++
			run.counts[1]++
			t.failures = append(t.failures, t.who+": "+short(e.Package))
			fmt.Fprintf(w, "---- %s\n%s", short(e.Package), withoutProgress(run.output.String()))
		}
	}
	fmt.Fprintf(w, "%s  %-44s %6.1fs  %4d passed", verdict, short(e.Package), e.Elapsed, run.counts[0])
	for i, word := range []string{"", "failed", "skipped"} {
		if i > 0 && run.counts[i] > 0 {
			fmt.Fprintf(w, ", %d %s", run.counts[i], word)
		}
	}
	fmt.Fprintln(w)
}

// short is a package's path in the module.
func short(pkg string) string { return strings.TrimPrefix(pkg, "github.com/kilnbuild/kiln/") }

func (t *tally) because(why string) {
	if t.reasons == nil {
		t.reasons = map[string]int{}
	}
	t.reasons[why]++
}

// reason finds, in the output of a skipped test, why it was.
func reason(output string) string {
	why := "no reason given"
	for line := range strings.Lines(output) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "=== ") || strings.HasPrefix(line, "--- ") {
			continue
		}
		if _, text, ok := strings.Cut(line, ".go:"); ok {
			if _, text, ok := strings.Cut(text, ": "); ok {
				why = text
			}
		}
	}
	return why
}

// summary prints why tests were skipped, what failed, and the sums.
func (t *tally) summary(w io.Writer) {
	if len(t.reasons) > 0 {
		fmt.Fprintln(w, "== skipped")
		for _, why := range slices.Sorted(maps.Keys(t.reasons)) {
			fmt.Fprintf(w, "%4d × %s\n", t.reasons[why], why)
		}
	}
	if len(t.failures) > 0 {
		fmt.Fprintln(w, "== failed")
		for _, name := range t.failures {
			fmt.Fprintf(w, "      %s\n", name)
		}
	}
	if os.Getenv("KILN_REQUIRE_SANDBOX") != "1" && t.skipped > 0 {
		fmt.Fprintln(w, "(KILN_REQUIRE_SANDBOX=1 makes a failure of what was skipped for want of a sandbox)")
	}
	fmt.Fprintf(w, "%d passed, %d failed, %d skipped\n", t.passed, t.failed, t.skipped)
}
