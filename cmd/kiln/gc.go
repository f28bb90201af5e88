package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/store/gc"
	"github.com/kilnbuild/kiln/store/local"
	"github.com/spf13/cobra"
)

// gcFlags are the flags of `kiln gc` that are no settings.
type gcFlags struct {
	dryRun, printDead, printLive  bool
	deleteOld                     bool
	deleteOlderThan, logsOlder    string
	maxFreed                      uint64
	ignoreLiveness, withReferrers bool
	skipLive                      bool
}

func gcCommand(g *globals) *cobra.Command {
	var flags gcFlags
	c := &cobra.Command{
		Use:   "gc [PATH…]",
		Short: "Delete what nobody needs",
		Long: "Deletes every object of the store that no root leads to, and what dead processes have left beside objects.\n" +
			"`kiln gc roots` lists the roots: links, profiles, and what running processes and builds use. Builds, Nix and\n" +
			"other kilns go on meanwhile.\n\n" +
			"With paths, only these are deleted. One that is alive is refused, with what keeps it alive.\n\n" +
			"The settings keep-derivations and keep-outputs say what else live objects keep.",
		RunE: func(c *cobra.Command, args []string) error {
			return runGC(c.Context(), g, &flags, c.Flags().Changed("max-freed"), args)
		},
	}
	f := c.Flags()
	f.BoolVar(&flags.dryRun, "dry-run", false, "only print what would be deleted")
	f.BoolVar(&flags.printDead, "print-dead", false, "print what nobody needs, and delete nothing")
	f.BoolVar(&flags.printLive, "print-live", false, "print what somebody needs, and delete nothing")
	f.BoolVarP(&flags.deleteOld, "delete-old", "d", false, "first delete all generations of profiles but the current ones")
	f.StringVar(&flags.deleteOlderThan, "delete-older-than", "", "first delete generations of profiles that had been replaced by that `TIME` ago, as 30d")
	f.StringVar(&flags.logsOlder, "logs-older-than", "", "also delete build logs that are older than that `TIME`, as 90d")
	f.Uint64Var(&flags.maxFreed, "max-freed", 0, "end when more than so many `BYTES` have become free")
	f.BoolVar(&flags.ignoreLiveness, "ignore-liveness", false, "delete the paths even if links lead to them; not what processes use or valid objects refer to")
	f.BoolVar(&flags.withReferrers, "delete-closure", false, "also delete what refers to the paths")
	f.BoolVar(&flags.skipLive, "skip-live", false, "leave out those of the paths that are alive, without an error")
	c.MarkFlagsMutuallyExclusive("dry-run", "print-live", "print-dead")
	c.MarkFlagsMutuallyExclusive("delete-old", "delete-older-than")
	c.AddCommand(gcRootsCommand(g))
	return c
}

func runGC(ctx context.Context, g *globals, flags *gcFlags, limited bool, args []string) error {
	before, err := flags.generationsBefore(time.Now())
	if err != nil {
		return err
	}
	var logsBefore time.Time
	if flags.logsOlder != "" {
		if logsBefore, err = ago(time.Now(), "--logs-older-than", flags.logsOlder); err != nil {
			return err
		}
	}
	if (flags.ignoreLiveness || flags.withReferrers || flags.skipLive) && len(args) == 0 {
		return errors.New("--ignore-liveness, --delete-closure and --skip-live are about paths: name those that are to be deleted")
	}
	tell := flags.dryRun || flags.printDead || flags.printLive
	run := func(c *configuration, st *local.Store) error {
		report := g.problems()
		if flags.deleteOld || flags.deleteOlderThan != "" {
			old, err := gc.DeleteGenerations(ctx, st, before, tell, report)
			if !g.quiet {
				for _, generation := range old {
					fmt.Fprintf(os.Stderr, "%s generation '%s'\n", map[bool]string{true: "would remove", false: "removing"}[tell], generation.Link)
				}
			}
			if err != nil {
				return err
			}
		}
		if tell {
			return flags.print(ctx, c, st, report)
		}
		if flags.logsOlder != "" {
			n, bytes, err := st.RemoveLogs(ctx, logsBefore)
			if err != nil {
				return err
			}
			fmt.Printf("%d build logs deleted, %s freed\n", n, humanBytes(bytes))
		}
		return collect(ctx, g, flags, limited, c, st, args)
	}
	if tell {
		return g.withStore(ctx, true, run)
	}
	return g.withStoreToCollect(ctx, run)
}

// generationsBefore is the time before which generations are old, zero if all are.
func (f *gcFlags) generationsBefore(now time.Time) (time.Time, error) {
	if f.deleteOlderThan == "" {
		return time.Time{}, nil
	}
	return ago(now, "--delete-older-than", f.deleteOlderThan)
}

// ago reads a number of days, "30d".
func ago(now time.Time, flag, text string) (time.Time, error) {
	digits, ok := strings.CutSuffix(text, "d")
	days, err := strconv.ParseUint(digits, 10, 16)
	if !ok || err != nil {
		return time.Time{}, fmt.Errorf("%s takes a number of days, as 30d, not '%s'", flag, text)
	}
	return now.Add(-time.Duration(days) * 24 * time.Hour), nil
}

func (c *configuration) keep() gc.Keep {
	return gc.Keep{Derivations: c.settings.KeepDerivations, Outputs: c.settings.KeepOutputs}
}

// print lists what is alive or dead.
func (f *gcFlags) print(ctx context.Context, c *configuration, st *local.Store, report func(gc.Problem)) error {
	s, err := gc.NewSurvey(ctx, st, c.keep(), report)
	if err != nil {
		return err
	}
	paths := s.Dead()
	if f.printLive {
		paths = s.Live()
	}
	for _, p := range paths {
		fmt.Println(p)
	}
	if f.dryRun {
		_, dead := s.Sizes()
		fmt.Fprintf(os.Stderr, "%d store paths would be deleted, about %s freed\n", len(paths), humanBytes(dead))
	}
	return nil
}

func collect(ctx context.Context, g *globals, flags *gcFlags, limited bool, c *configuration, st *local.Store, args []string) error {
	opts := gc.Options{
		Keep: c.keep(), WithReferrers: flags.withReferrers, IgnoreLiveness: flags.ignoreLiveness, SkipLive: flags.skipLive,
		Waiting: func() { fmt.Fprintln(os.Stderr, "waiting for another garbage collector to end") },
	}
	if limited {
		opts.MaxFreed = &flags.maxFreed
	}
	if !g.quiet {
		opts.Deleted = func(paths []string) {
			var text strings.Builder
			for _, p := range paths {
				fmt.Fprintf(&text, "deleting '%s'\n", p)
			}
			fmt.Fprint(os.Stderr, text.String())
		}
	}
	troubles := 0
	report := g.problems()
	opts.Report = func(p gc.Problem) {
		if p.Name == "" {
			troubles++
		}
		report(p)
	}
	for _, arg := range args {
		p, err := storePathArg(st, arg)
		if err != nil {
			return err
		}
		opts.Only = append(opts.Only, p)
	}
	result, err := gc.Collect(ctx, st, opts)
	if !g.quiet && result.Links.Left > 0 {
		fmt.Fprintf(os.Stderr, "note: hard linking is currently saving %s\n", humanBytes(result.Links.Saved))
	}
	if result != nil && (err == nil || len(result.Paths) > 0) {
		fmt.Printf("%d store paths deleted, %s freed\n", len(result.Paths), humanBytes(result.Freed))
	}
	if err == nil && troubles > 0 {
		err = &exitError{code: 1, err: errors.New("not everything could be deleted, see above")}
	}
	return err
}

// problems gives a function that tells of problems on standard error.
func (g *globals) problems() func(gc.Problem) {
	return func(p gc.Problem) {
		if g.quiet && p.Name != "" || p.Usual && g.verbose == 0 {
			return
		}
		fmt.Fprintf(os.Stderr, "warning: %v\n", p)
	}
}

// humanBytes prints a size as Nix does.
func humanBytes(n int64) string {
	return fmt.Sprintf("%.2f MiB", float64(n)/(1<<20))
}

// rootJSON is a root as `kiln gc roots --json` prints it.
type rootJSON struct {
	Link string `json:"link"`
	Kind string `json:"kind"`
}

func gcRootsCommand(g *globals) *cobra.Command {
	var asJSON bool
	var why []string
	c := &cobra.Command{
		Use:   "roots",
		Short: "Tell what keeps objects alive",
		Long: "Lists everything that keeps objects of the store from being deleted: links below the directories of roots\n" +
			"and profiles, files that running processes have open or mapped, and what builds are about to need, as\n" +
			"{temp:PROCESS}. What is needed by these is not listed.\n\n" +
			"With --why, the way from a root to one object is printed.",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			return g.withStore(c.Context(), true, func(conf *configuration, st *local.Store) error {
				if len(why) > 0 {
					return printWhy(c.Context(), g, conf, st, why, asJSON)
				}
				roots, err := gc.FindRoots(c.Context(), st, g.problems())
				if err != nil {
					return err
				}
				return printRoots(st, roots, asJSON)
			})
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	c.Flags().StringArrayVar(&why, "why", nil, "print what keeps the object `PATH` alive")
	return c
}

func printRoots(st *local.Store, roots gc.Roots, asJSON bool) error {
	byPath := make(map[string][]rootJSON, len(roots))
	for _, p := range roots.Paths() {
		for _, r := range roots[p] {
			if !asJSON {
				fmt.Printf("%s -> %s\n", r.Name, st.Dir().Join(p))
				continue
			}
			full := st.Dir().Join(p)
			byPath[full] = append(byPath[full], rootJSON{r.Name, r.Kind.String()})
		}
	}
	if asJSON {
		return printJSON(byPath)
	}
	return nil
}

// stepJSON is a step of the way from a root.
type stepJSON struct {
	Path string `json:"path"`
	Why  string `json:"why"`
}

// whyJSON is why an object is alive.
type whyJSON struct {
	Alive bool       `json:"alive"`
	Roots []rootJSON `json:"roots"`
	Way   []stepJSON `json:"way"`
}

func printWhy(ctx context.Context, g *globals, c *configuration, st *local.Store, args []string, asJSON bool) error {
	s, err := gc.NewSurvey(ctx, st, c.keep(), g.problems())
	if err != nil {
		return err
	}
	answers := make(map[string]whyJSON)
	for _, arg := range args {
		p, err := storePathArg(st, arg)
		if err != nil {
			return err
		}
		roots, way, err := s.Why(p)
		if err != nil {
			return err
		}
		full := st.Dir().Join(p)
		if !asJSON {
			printWay(st.Dir(), full, roots, way)
			continue
		}
		answer := whyJSON{Alive: way != nil, Roots: []rootJSON{}, Way: []stepJSON{}}
		for _, r := range roots {
			answer.Roots = append(answer.Roots, rootJSON{r.Name, r.Kind.String()})
		}
		for _, step := range way {
			answer.Way = append(answer.Way, stepJSON{st.Dir().Join(step.Path), step.Why.String()})
		}
		answers[full] = answer
	}
	if asJSON {
		return printJSON(answers)
	}
	return nil
}

func printWay(dir nix.StoreDir, full string, roots []gc.Root, way []gc.Step) {
	if way == nil {
		fmt.Printf("%s\n  is not alive: the next `kiln gc` deletes it\n", full)
		return
	}
	for _, r := range roots {
		fmt.Printf("%s%s\n", r.Name, whose(r))
	}
	for i, step := range way {
		indent := strings.Repeat("  ", i+1)
		switch step.Why {
		case gc.IsRoot:
			fmt.Printf("%s-> %s\n", indent, dir.Join(step.Path))
		default:
			fmt.Printf("%s-> %s (%s)\n", indent, dir.Join(step.Path), step.Why)
		}
	}
}

// whose says what the process of a root is, as far as that can be told.
func whose(r gc.Root) string {
	var rest string
	switch r.Kind {
	case gc.Process:
		rest = strings.TrimPrefix(r.Name, "/proc/")
	case gc.Temporary:
		rest = strings.TrimPrefix(r.Name, "{temp:")
	default:
		return ""
	}
	pid := rest[:len(rest)-len(strings.TrimLeft(rest, "0123456789"))]
	name, err := os.ReadFile("/proc/" + pid + "/comm")
	if pid == "" || err != nil {
		return ""
	}
	if r.Kind == gc.Temporary {
		return fmt.Sprintf(" (needed by process %s, %s)", pid, strings.TrimSpace(string(name)))
	}
	return fmt.Sprintf(" (used by process %s, %s)", pid, strings.TrimSpace(string(name)))
}
