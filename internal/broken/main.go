// Command broken shows that the security tests can fail. For each it breaks kiln
// where the test is meant to look, runs the test on that, and expects it to fail.
// A test that passes all the same is no test.
//
// Nothing in the tree is changed: the go command is told to read other files in
// the place of those that are broken. A kiln that is broken on purpose may do to
// the machine what it must never do, so tests run where they can write to nothing
// but a directory in memory. It needs root for that.
//
// The numbers are those in the names of the tests; docs/isolation.md says what
// each is about.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"text/tabwriter"
	"time"
)

// A breakage is one place in which kiln is made worse, and the test that has to
// notice.
type breakage struct {
	test string // number and what is broken
	pkg  string // directory of the package with the test
	run  string // the test, as for go test
	file string // what is broken
	old  string // text that stands there exactly once
	new  string
}

func main() {
	if len(os.Args) > 1 && os.Args[1] == confinedArg {
		fmt.Fprintf(os.Stderr, "broken: %v\n", confined(os.Args[2:]))
		os.Exit(confinementFailed)
	}
	only := flag.String("run", "", "only the breakages that match")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := all(ctx, *only); err != nil {
		fmt.Fprintf(os.Stderr, "broken: %v\n", err)
		stop()
		os.Exit(1)
	}
}

// all tries every breakage, prints how it came out, and in the end all that went
// otherwise than it has to.
func all(ctx context.Context, only string) error {
	wanted, err := regexp.Compile(only)
	if err != nil {
		return err
	}
	out := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	var failures []string
	tried, whole := 0, make(map[string]func() (string, error))
	for _, b := range breakages {
		if !wanted.MatchString(b.test) {
			continue
		}
		tried++
		// Only a test that passes here tells anything by failing.
		asItIs := whole[b.pkg+b.run]
		if asItIs == nil {
			asItIs = sync.OnceValues(func() (string, error) { return b.passes(ctx) })
			whole[b.pkg+b.run] = asItIs
		}
		asItIs()
		begin := time.Now()
		verdict, said := b.verdict(ctx, asItIs)
		if err := ctx.Err(); err != nil {
			return err
		}
		fmt.Fprintf(out, "%s\t%s\t%s\t%.1f s\t%s\n", b.test, b.run, verdict, time.Since(begin).Seconds(), firstLine(said))
		out.Flush()
		if verdict != noticed {
			failures = append(failures, strings.TrimRight(b.test+": "+verdict+"\n"+said, "\n"))
		}
	}
	switch {
	case tried == 0:
		return fmt.Errorf("no breakage matches %q", only)
	case len(failures) > 0:
		return fmt.Errorf("%d of %d breakages:\n%s", len(failures), tried, strings.Join(failures, "\n"))
	}
	return nil
}

// How breakages come out.
const (
	noticed     = "noticed"
	notNoticed  = "NOT NOTICED"
	failsAnyway = "FAILS ANYWAY"
	notTried    = "NOT TRIED"
)

// verdict tells how the breakage came out, and what was said about it. asItIs
// gives what the test says of kiln as it is.
func (b breakage) verdict(ctx context.Context, asItIs func() (string, error)) (verdict, said string) {
	usual, err := asItIs()
	if err != nil {
		return failsAnyway, err.Error()
	}
	output, passed, err := b.try(ctx)
	switch {
	case err != nil:
		return notTried, err.Error()
	case passed:
		return notNoticed, ""
	}
	return noticed, firstComplaint(output, usual)
}

// passes gives what the test says of kiln as it is, where it must pass. One that is
// skipped does not: it could not notice anything.
func (b breakage) passes(ctx context.Context) (output string, err error) {
	output, passed, err := breakage{pkg: b.pkg, run: b.run}.try(ctx)
	switch {
	case err != nil:
		return "", err
	case !passed:
		return "", errors.New(output)
	case skipped.MatchString(output):
		return "", fmt.Errorf("it is skipped here:\n%s", output)
	}
	return output, nil
}

// try runs the test on the broken kiln.
func (b breakage) try(ctx context.Context) (output string, passed bool, err error) {
	dir, err := os.MkdirTemp("", "broken")
	if err != nil {
		return "", false, err
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil {
		return "", false, err
	}
	overlay, err := b.overlay(dir)
	if err != nil {
		return "", false, err
	}
	test, kiln := filepath.Join(dir, "test"), filepath.Join(dir, "kiln")
	for _, args := range [][]string{
		{"test", "-buildvcs=false", "-overlay", overlay, "-c", "-o", test, "./" + b.pkg},
		{"build", "-buildvcs=false", "-overlay", overlay, "-o", kiln, "./cmd/kiln"},
	} {
		cmd := exec.CommandContext(ctx, "go", args...)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", false, fmt.Errorf("what is broken does not build: %w\n%s", err, out)
		}
	}
	self, err := os.Executable()
	if err != nil {
		return "", false, err
	}
	cmd := exec.CommandContext(ctx, self, confinedArg, dir, test, "-test.v", "-test.timeout=5m", "-test.run=^"+b.run+"$")
	cmd.Dir = b.pkg
	cmd.Env = append(os.Environ(), "KILN="+kiln)
	cmd.SysProcAttr = confinement()
	text, err := cmd.CombinedOutput()
	output = string(text)
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return "", false, ctx.Err()
	case strings.Contains(output, "no tests to run"):
		return "", false, fmt.Errorf("there is no test %s in %s", b.run, b.pkg)
	case err == nil:
		return output, true, nil
	case !errors.As(err, &exit) || exit.ExitCode() == confinementFailed:
		return "", false, fmt.Errorf("%w: %s", err, output)
	}
	return output, false, nil
}

// overlay writes the broken file, if there is one, and the list that tells the go
// command of it.
func (b breakage) overlay(dir string) (list string, err error) {
	list = filepath.Join(dir, "overlay.json")
	if b.file == "" {
		return list, os.WriteFile(list, []byte("{}"), 0o644)
	}
	text, err := os.ReadFile(b.file)
	if err != nil {
		return "", err
	}
	if n := strings.Count(string(text), b.old); n != 1 {
		return "", fmt.Errorf("%q stands %d times in %s, not once", b.old, n, b.file)
	}
	worse := filepath.Join(dir, "worse.go")
	if err := os.WriteFile(worse, []byte(strings.Replace(string(text), b.old, b.new, 1)), 0o644); err != nil {
		return "", err
	}
	file, err := filepath.Abs(b.file)
	if err != nil {
		return "", err
	}
	replace, err := json.Marshal(map[string]map[string]string{"Replace": {file: worse}})
	if err != nil {
		return "", err
	}
	return list, os.WriteFile(list, replace, 0o644)
}

var (
	skipped   = regexp.MustCompile(`(?m)^--- SKIP: `)
	complaint = regexp.MustCompile(`(?m)^\s+[a-z0-9_]+\.go:\d+: (.*)$`)
	numbers   = regexp.MustCompile(`\d+`)
)

// firstComplaint finds the first line that a test said and does not say usually,
// whatever numbers are in it: that logs something is no complaint.
func firstComplaint(output, usual string) string {
	known := make(map[string]bool)
	for _, m := range complaint.FindAllStringSubmatch(usual, -1) {
		known[numbers.ReplaceAllString(m[1], "0")] = true
	}
	for _, m := range complaint.FindAllStringSubmatch(output, -1) {
		if m[1] != "" && !known[numbers.ReplaceAllString(m[1], "0")] {
			return m[1]
		}
	}
	return "failed"
}

// firstLine is what of a text fits into a table.
func firstLine(text string) string {
	const width = 100
	line, _, _ := strings.Cut(text, "\n")
	if len(line) > width {
		line = line[:width] + "…"
	}
	return line
}
