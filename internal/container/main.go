// Command container tests kiln where schedulers run it: in containers, with as much privilege
// as the machine can give, with the least that works, without root, and with none.
//
// It takes the container engine that is there, or starts one for the run; makes the images;
// reads from docs/containers.md which flags of `docker run` are which set of privileges, and
// what is to come of each; and holds kiln to it. It ends with a table, and with 1 if a row is
// not as documented. `make test-container` calls it, in the root of the tree.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"
)

func main() {
	only := flag.String("run", "", "only the rows that match")
	made := flag.Bool("made", false, "take the images that are there, and leave them: for work on the rows")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := all(ctx, *only, *made); err != nil {
		fmt.Fprintf(os.Stderr, "container: %v\n", err)
		stop()
		os.Exit(1)
	}
}

// A row is one thing that is to be so.
type row struct {
	set, what string
	// check gives a few words of what was found.
	check func(ctx context.Context) (string, error)
}

// rowTime is how long a row may take.
const rowTime = 5 * time.Minute

// all runs every row, and prints how it came out.
func all(ctx context.Context, only string, made bool) error {
	wanted, err := regexp.Compile(only)
	if err != nil {
		return err
	}
	// Short, since names of sockets below it have a limit.
	dir, err := os.MkdirTemp("", "kc")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil {
		return err
	}
	d, err := readDocument("docs/containers.md")
	if err != nil {
		return err
	}
	e, err := openEngine(ctx, filepath.Join(dir, "engine"))
	if err != nil {
		return err
	}
	defer e.close()
	if !made || !e.hasImages(ctx) {
		if err := e.makeImages(ctx); err != nil {
			return err
		}
	}
	s := &suite{engine: e, document: d, dir: dir, keep: made}
	defer s.clean()
	rows, err := s.rows(ctx)
	if err != nil {
		return err
	}
	out := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(out, "SET\tWHAT\tRESULT\tSECONDS\tFOUND")
	var failures []string
	ran := 0
	for _, r := range rows {
		if !wanted.MatchString(r.set + " " + r.what) {
			continue
		}
		ran++
		begin := time.Now()
		limited, cancel := context.WithTimeout(ctx, rowTime)
		found, err := r.check(limited)
		cancel()
		if ctx.Err() != nil {
			return ctx.Err()
		}
		result := "as documented"
		if err != nil {
			result, found = "OTHERWISE", firstLine(err.Error())
			failures = append(failures, fmt.Sprintf("%s, %s: %v", r.set, r.what, err))
		}
		fmt.Fprintf(out, "%s\t%s\t%s\t%.1f\t%s\n", r.set, r.what, result, time.Since(begin).Seconds(), found)
		fmt.Fprintf(os.Stderr, "%s, %s: %s\n", r.set, r.what, result)
	}
	out.Flush()
	switch {
	case ran == 0:
		return fmt.Errorf("no row matches %q", only)
	case len(failures) > 0:
		return fmt.Errorf("%d of %d rows are not as docs/containers.md has them:\n\n%s", len(failures), ran, strings.Join(failures, "\n\n"))
	}
	return nil
}

// firstLine is what of a text fits into a table.
func firstLine(text string) string {
	const width = 110
	line, _, _ := strings.Cut(strings.TrimSpace(text), "\n")
	if r := []rune(line); len(r) > width {
		line = string(r[:width]) + "…"
	}
	return line
}
