package main

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	kilnv1 "github.com/kilnbuild/kiln/api/kiln/v1"
	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/rpc"
	"github.com/spf13/cobra"
	"golang.org/x/term"
)

func topCommand() *cobra.Command {
	var remote remoteFlags
	var once bool
	var interval time.Duration
	c := &cobra.Command{
		Use:   "top",
		Short: "Show what the builders of an executor service do and use",
		Long: "Shows the builders that run, with the phase that they have named, how long they run, and what they use: processors\n" +
			"in percent of one, memory, processes, and what was read from and written to disks. These are counted in control\n" +
			"groups: where builders have none (see the setting use-cgroups), a - is shown. Then come the builds that wait, and\n" +
			"why.\n\n" +
			"On a terminal it is shown again every second until ^C; elsewhere, or with --once, once.",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return remote.withClient(c.Context(), func(client *rpc.Client) error {
				if once || !term.IsTerminal(int(os.Stdout.Fd())) {
					return topOnce(c.Context(), client, os.Stdout)
				}
				return topLive(c.Context(), client, max(interval, 100*time.Millisecond))
			})
		},
	}
	remote.registerAddress(c.Flags())
	c.Flags().BoolVarP(&once, "once", "1", false, "show it once")
	c.Flags().DurationVarP(&interval, "interval", "i", time.Second, "how long to wait before showing it again")
	return c
}

// topOnce shows what builders have used on average since they have started.
func topOnce(ctx context.Context, client *rpc.Client, w io.Writer) error {
	m := newMeter()
	text, err := m.look(ctx, client)
	if err == nil {
		_, err = w.Write(text)
	}
	return err
}

func topLive(ctx context.Context, client *rpc.Client, interval time.Duration) error {
	m := newMeter()
	for {
		text, err := m.look(ctx, client)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		size := screenSize()
		if _, err := os.Stdout.Write(onScreen(text, int(size.Columns), int(size.Rows))); err != nil {
			return err
		}
		select {
		case <-time.After(interval):
		case <-ctx.Done():
			return nil
		}
	}
}

// onScreen shows as much of a text as a terminal has room for, in the place of what it
// showed before.
func onScreen(text []byte, columns, rows int) []byte {
	var b bytes.Buffer
	b.WriteString("\x1b[H")
	lines := strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
	for i, line := range lines[:min(len(lines), max(rows-1, 1))] {
		if i > 0 {
			b.WriteString("\r\n")
		}
		if r := []rune(line); len(r) > columns {
			line = string(r[:columns])
		}
		b.WriteString(line)
		b.WriteString("\x1b[K")
	}
	b.WriteString("\x1b[J")
	return b.Bytes()
}

// meter tells what builders use at the moment, out of what they have used so far.
type meter struct {
	last map[string]reading // by build and derivation
}

// reading is what was known of a builder when it was looked at.
type reading struct {
	started, sampled time.Time
	used             time.Duration // of processors
	percent          float64       // of one processor, between this reading and the one before
}

func newMeter() *meter { return &meter{last: make(map[string]reading)} }

// look asks the executor service, and gives the text to show.
func (m *meter) look(ctx context.Context, client *rpc.Client) ([]byte, error) {
	caps, err := client.Executor.GetCapabilities(ctx, &kilnv1.GetCapabilitiesRequest{})
	if err != nil {
		return nil, err
	}
	list, err := listBuilds(ctx, client, false)
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	m.print(&b, caps, list, time.Now())
	return b.Bytes(), nil
}

// percent is the processor time that a builder uses.
func (m *meter) percent(now map[string]reading, build *kilnv1.BuildInfo, b *kilnv1.Builder) float64 {
	r := reading{started: b.Started.AsTime(), sampled: b.Sampled.AsTime(), used: b.Resources.UserTime.AsDuration() + b.Resources.SystemTime.AsDuration()}
	name := build.Id + " " + b.StorePath
	before, known := m.last[name]
	if !known || !before.started.Equal(r.started) {
		before = reading{sampled: r.started}
	}
	r.percent = before.percent
	if span := r.sampled.Sub(before.sampled); span > 0 {
		r.percent = 100 * float64(r.used-before.used) / float64(span)
	}
	now[name] = r
	return r.percent
}

// topLine is a builder in the table.
type topLine struct {
	percent float64 // -1 where nothing is counted
	started time.Time
	text    string
}

// print writes the table.
func (m *meter) print(w io.Writer, caps *kilnv1.Capabilities, list []*kilnv1.BuildInfo, now time.Time) {
	readings := make(map[string]reading)
	var lines []topLine
	var waiting []*kilnv1.BuildInfo
	for _, build := range list {
		if len(build.Builders) == 0 {
			waiting = append(waiting, build)
		}
		for _, b := range build.Builders {
			what := name(b.StorePath)
			if b.Machine != "" {
				what += " on " + plain(b.Machine)
			}
			l := topLine{percent: -1, started: b.Started.AsTime()}
			used := "-\t-\t-\t-\t-"
			if r := b.Resources; r != nil {
				l.percent = m.percent(readings, build, b)
				used = fmt.Sprintf("%.0f\t%s\t%d\t%s\t%s", l.percent, shortBytes(r.MemoryBytes), r.Processes, shortBytes(r.ReadBytes), shortBytes(r.WriteBytes))
			}
			l.text = fmt.Sprintf("%s\t%s\t%s\t%v\t%s\t\n", build.Id, what, cmp.Or(plain(b.Phase), "-"), now.Sub(l.started).Round(time.Second), used)
			lines = append(lines, l)
		}
	}
	m.last = readings
	slices.SortStableFunc(lines, func(a, b topLine) int {
		return cmp.Or(cmp.Compare(b.percent, a.percent), a.started.Compare(b.started))
	})
	slices.SortStableFunc(waiting, func(a, b *kilnv1.BuildInfo) int { return a.Created.AsTime().Compare(b.Created.AsTime()) })

	fmt.Fprintf(w, "builders: %d, on %d slots; waiting builds: %d", len(lines), caps.Slots, len(waiting))
	if caps.Draining {
		fmt.Fprint(w, ", draining")
	}
	fmt.Fprintf(w, "; load %.2f of %d processors; %s free\n\n", caps.Load, caps.Processors, shortBytes(caps.FreeBytes))
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	if len(lines) > 0 {
		fmt.Fprintln(t, "BUILD\tBUILDER\tPHASE\tTIME\tCPU%\tMEMORY\tPROCS\tREAD\tWRITTEN\t")
		for _, l := range lines {
			io.WriteString(t, l.text)
		}
		t.Flush()
	}
	if len(waiting) == 0 {
		return
	}
	if len(lines) > 0 {
		fmt.Fprintln(w)
	}
	fmt.Fprintln(t, "BUILD\tWHAT\tAGE\tWAITS\t")
	for _, b := range waiting {
		fmt.Fprintf(t, "%s\t%s\t%v\t%s\t\n", b.Id, target(b), now.Sub(b.Created.AsTime()).Round(time.Second), cmp.Or(plain(b.Activity), "for its turn"))
	}
	t.Flush()
}

// target is what a build is for, in a few words.
func target(b *kilnv1.BuildInfo) string {
	what := ""
	if len(b.Targets) > 0 {
		what = name(b.Targets[0])
	}
	if n := len(b.Targets); n > 1 {
		what += fmt.Sprintf(" and %d more", n-1)
	}
	return what
}

// shortBytes is a size with the largest unit that leaves something before the point.
func shortBytes(n int64) string {
	units := []string{"B", "KiB", "MiB", "GiB", "TiB"}
	size := float64(n)
	for size >= 1024 && len(units) > 1 {
		size, units = size/1024, units[1:]
	}
	if units[0] == "B" {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.1f %s", size, units[0])
}

// name is what a store path, or what begins with one, is called, without the rest.
func name(p string) string {
	p, _, _ = strings.Cut(p, "^")
	p = strings.TrimSuffix(p[strings.LastIndexByte(p, '/')+1:], nix.DrvExtension)
	if _, rest, ok := strings.Cut(p, "-"); ok {
		p = rest
	}
	return plain(p)
}

// plain is a text of which a terminal does nothing but show it: builders say what they
// like.
func plain(text string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '?'
		}
		return r
	}, text)
}
