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

// all tries every breakage and prints how it came out.
func all(ctx context.Context, only string) error {
	wanted, err := regexp.Compile(only)
	if err != nil {
		return err
	}
	out := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	defer out.Flush()
	var missed []string
	intact := make(map[string]bool)
	for _, b := range breakages {
		if !wanted.MatchString(b.test) {
			continue
		}
		// Only a test that passes here tells anything by failing.
		if whole := (breakage{pkg: b.pkg, run: b.run}); !intact[b.pkg+b.run] {
			said, err := whole.try(ctx)
			if err == nil && said != "" {
				err = errors.New(said)
			}
			if err != nil {
				fmt.Fprintf(out, "%s\t%s\t%s\t\t%v\n", b.test, b.run, "FAILS ANYWAY", err)
				missed = append(missed, b.test)
				continue
			}
			intact[b.pkg+b.run] = true
		}
		begin := time.Now()
		said, err := b.try(ctx)
		if err != nil {
			return fmt.Errorf("%s: %w", b.test, err)
		}
		verdict := "noticed"
		if said == "" {
			verdict = "NOT NOTICED"
			missed = append(missed, b.test)
		}
		fmt.Fprintf(out, "%s\t%s\t%s\t%.1f s\t%s\n", b.test, b.run, verdict, time.Since(begin).Seconds(), said)
		out.Flush()
	}
	if len(missed) > 0 {
		return fmt.Errorf("not noticed: %s", strings.Join(missed, ", "))
	}
	return nil
}

// try runs the test on the broken kiln, and gives the first thing that it said
// about it, "" if it passed.
func (b breakage) try(ctx context.Context) (said string, err error) {
	dir, err := os.MkdirTemp("", "broken")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil {
		return "", err
	}
	overlay, err := b.overlay(dir)
	if err != nil {
		return "", err
	}
	test, kiln := filepath.Join(dir, "test"), filepath.Join(dir, "kiln")
	for _, args := range [][]string{
		{"test", "-buildvcs=false", "-overlay", overlay, "-c", "-o", test, "./" + b.pkg},
		{"build", "-buildvcs=false", "-overlay", overlay, "-o", kiln, "./cmd/kiln"},
	} {
		cmd := exec.CommandContext(ctx, "go", args...)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("what is broken does not build: %w\n%s", err, out)
		}
	}
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, self, confinedArg, dir, test, "-test.timeout=5m", "-test.run=^"+b.run+"$")
	cmd.Dir = b.pkg
	cmd.Env = append(os.Environ(), "KILN="+kiln)
	cmd.SysProcAttr = confinement()
	output, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		return "", ctx.Err()
	case strings.Contains(string(output), "no tests to run"):
		return "", fmt.Errorf("there is no test %s in %s", b.run, b.pkg)
	case err == nil:
		return "", nil
	case !errors.As(err, &exit) || exit.ExitCode() == confinementFailed:
		return "", fmt.Errorf("%w: %s", err, output)
	}
	return firstComplaint(string(output)), nil
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

var complaint = regexp.MustCompile(`(?m)^\s+[a-z0-9_]+\.go:\d+: (.*)$`)

// firstComplaint finds the first line that a test said.
func firstComplaint(output string) string {
	const width = 100
	said := "failed"
	if m := complaint.FindStringSubmatch(output); m != nil && m[1] != "" {
		said = m[1]
	}
	if len(said) > width {
		said = said[:width] + "…"
	}
	return said
}
