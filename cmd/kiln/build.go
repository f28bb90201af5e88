package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/conf"
	"github.com/kilnbuild/kiln/store/remote"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// buildFlags are the flags of `kiln build` that are no settings.
type buildFlags struct {
	json, printPaths, dryRun, printLogs bool
	noLink                              bool
	outLink                             string
	check, repair                       bool
	rebuild                             int
	logFormat                           logFormatFlag
	limits, minIsolation                string
	keepSandbox                         bool
	remote                              remoteFlags
}

func buildCommand(g *globals) *cobra.Command {
	var flags buildFlags
	c := &cobra.Command{
		Use:   "build DERIVATION[^OUTPUT,…]…",
		Short: "Build derivations and print where their outputs are",
		Long: "Builds derivations, with everything that they depend on, and prints the store paths of their outputs.\n\n" +
			"A derivation is a store path that ends in .drv, a .drv file, or a file with a derivation as JSON (ending in\n" +
			".json, or - for standard input); the latter two are added to the store first. All outputs are built unless\n" +
			"some are named after a ^.\n\n" +
			"Exit codes are those of Nix: 100 when a builder failed, 101 for a timeout, 102 for a wrong hash of a fixed\n" +
			"output, 104 for a build that is not deterministic, 1 for anything else. Where several apply, they are combined.",
		Args: cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			if flags.remote.given() {
				return buildByExecutor(c.Context(), g, &flags, args)
			}
			return runBuild(c.Context(), g, &flags, args)
		},
	}
	flags.register(c.Flags())
	c.MarkFlagsMutuallyExclusive("check", "rebuild", "repair")
	c.MarkFlagsMutuallyExclusive("out-link", "add-root", "no-link")
	g.overrideSwitch(c, "keep-failed", "K", "keep-failed", "keep the build directories of builds that fail")
	g.overrideSwitch(c, "keep-going", "k", "keep-going", "carry on with what does not depend on a failure")
	g.override(c, "max-jobs", "j", "max-jobs", "how many builders run at once; auto for one a processor")
	g.override(c, "cores", "", "cores", "how many processors a builder should use; 0 for all")
	g.override(c, "timeout", "", "timeout", "seconds after which a builder is killed; 0 for never")
	g.override(c, "max-silent-time", "", "max-silent-time", "seconds without output after which a builder is killed; 0 for never")
	return c
}

func (b *buildFlags) register(f *pflag.FlagSet) {
	f.BoolVar(&b.json, "json", false, "print everything that is known of the results as JSON")
	f.BoolVar(&b.printPaths, "print-out-paths", false, "print the paths of the outputs; that is done anyway unless --json is given")
	f.BoolVar(&b.dryRun, "dry-run", false, "only say what would be built")
	f.BoolVarP(&b.printLogs, "print-build-logs", "L", false, "show what builders print while they run")
	f.StringVarP(&b.outLink, "out-link", "o", "", "make links with this `NAME` to the outputs, which keep them from being collected as garbage")
	f.StringVar(&b.outLink, "add-root", "", "the same as --out-link")
	f.BoolVar(&b.noLink, "no-link", false, "make no links, as is done unless --out-link is given")
	f.BoolVar(&b.check, "check", false, "build again what is valid, and compare: is it deterministic?")
	f.IntVar(&b.rebuild, "rebuild", 0, "as --check, building `N` times")
	f.Lookup("rebuild").NoOptDefVal = "1"
	f.BoolVar(&b.repair, "repair", false, "build again what is valid but damaged")
	f.StringVar(&b.limits, "limits", "", "`LIMITS` of every builder, as in \"memory=2G processes=500\": memory, processes, cpu-weight, cpu-quota, timeout, silence, log, output, build-dir")
	f.StringVar(&b.minIsolation, "min-isolation", "", "refuse builders that would be isolated less than `LEVEL`: full, partial or none")
	f.BoolVar(&b.keepSandbox, "keep-sandbox", false, "keep the sandboxes of builders that fail, for kiln enter")
	b.remote.register(f)
	b.logFormat.register(f)
}

// request says what is to be done.
func (b *buildFlags) request() (*nix.BuildRequest, error) {
	limits, err := nix.ParseLimits(b.limits)
	if err != nil {
		return nil, fmt.Errorf("--limits: %w", err)
	}
	switch b.minIsolation {
	case "", "full", "partial", "none":
	default:
		return nil, fmt.Errorf("--min-isolation takes full, partial or none, not '%s'", b.minIsolation)
	}
	r, err := b.outputs()
	if err == nil {
		r.Limits, r.MinIsolation, r.KeepSandbox = limits, b.minIsolation, b.keepSandbox
	}
	return r, err
}

// outputs says what is to be done about the outputs.
func (b *buildFlags) outputs() (*nix.BuildRequest, error) {
	switch {
	case b.rebuild < 0:
		return nil, fmt.Errorf("--rebuild takes a number of builds, not %d", b.rebuild)
	case b.rebuild > 0:
		return &nix.BuildRequest{Mode: nix.BuildCheck, Rounds: b.rebuild}, nil
	case b.check:
		return &nix.BuildRequest{Mode: nix.BuildCheck}, nil
	case b.repair:
		return &nix.BuildRequest{Mode: nix.BuildRepair}, nil
	}
	return &nix.BuildRequest{}, nil
}

func runBuild(ctx context.Context, g *globals, flags *buildFlags, args []string) (err error) {
	request, err := flags.request()
	if err != nil {
		return err
	}
	c, err := g.configure()
	if err != nil {
		return err
	}
	if c.behindDaemon() {
		if flags.keepSandbox {
			return errors.New("--keep-sandbox is for stores of one's own and executor services: the protocol of Nix daemons has no word for it")
		}
		return c.withRemote(func(st *remote.Store) error {
			workshop := func(*screen) (nix.Builder, planner, func() error, error) {
				return st, remoteStore{st}.plan, func() error { return nil }, nil
			}
			return buildIn(ctx, c, g, flags, request, args, remoteStore{st}, workshop)
		})
	}
	if c.store.Scheme == conf.SchemeSSH {
		return c.withLegacy(func(st *remote.Legacy) error {
			workshop := func(*screen) (nix.Builder, planner, func() error, error) {
				return st, legacyStore{st}.plan, func() error { return nil }, nil
			}
			return buildIn(ctx, c, g, flags, request, args, legacyStore{st}, workshop)
		})
	}
	st, err := c.open(ctx, false)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	workshop := func(s *screen) (nix.Builder, planner, func() error, error) {
		x, closeExecutor, err := c.executor(ctx, st, g.verbose, s.ShowsLogs())
		if err != nil {
			return nil, nil, nil, err
		}
		return x, x.Plan, closeExecutor, nil
	}
	return buildIn(ctx, c, g, flags, request, args, st, workshop)
}

// A planner tells what a builder would do.
type planner func(ctx context.Context, paths []nix.DerivedPath) (*nix.Plan, error)

// buildIn has what workshop gives build what the command line asks for.
func buildIn(ctx context.Context, c *configuration, g *globals, flags *buildFlags, request *nix.BuildRequest, args []string,
	st buildStore, workshop func(*screen) (nix.Builder, planner, func() error, error)) (err error) {
	for _, arg := range args {
		p, err := buildArg(ctx, st, arg)
		if err != nil {
			return err
		}
		request.Paths = append(request.Paths, p)
	}
	screen := newScreen(st.Dir(), g, flags, c.settings.LogLines)
	defer screen.Close()
	builder, plan, closeBuilder, err := workshop(screen)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeBuilder()) }()

	if flags.dryRun {
		return dryRun(ctx, plan, st.Dir(), request.Paths)
	}
	request.Log = screen
	results, err := builder.Build(ctx, request)
	screen.Close()
	if err != nil {
		return err
	}
	return flags.finish(ctx, g, st, screen, results)
}

// finish tells of the results, after the screen was closed.
func (b *buildFlags) finish(ctx context.Context, g *globals, st buildStore, screen *screen, results []nix.BuildResult) error {
	if b.outLink != "" {
		if err := makeLinks(ctx, st, b.outLink, results); err != nil {
			return err
		}
	}
	if g.verbose > 0 {
		printIsolation(os.Stderr, results)
	}
	if b.json {
		if err := printResultsJSON(os.Stdout, st.Dir(), results); err != nil {
			return err
		}
	}
	if err := failures(st.Dir(), results, screen.fail); err != nil {
		return screen.report(err)
	}
	if !b.json {
		printOutputs(st.Dir(), results)
	}
	return nil
}

func printOutputs(dir nix.StoreDir, results []nix.BuildResult) {
	for _, r := range results {
		if r.Path.IsOpaque() {
			fmt.Println(dir.Join(r.Path.Path))
		}
		for _, name := range slices.Sorted(maps.Keys(r.Outputs)) {
			fmt.Println(dir.Join(r.Outputs[name].OutPath))
		}
	}
}

// failures makes one error with Nix's exit code of everything that failed. Where
// that is more than one thing, each is told.
func failures(dir nix.StoreDir, results []nix.BuildResult, tell func(message string)) error {
	var failed []string
	var statuses []nix.BuildStatus
	for _, r := range results {
		if r.Status.Success() {
			continue
		}
		failed = append(failed, "'"+r.Path.Format(dir, "^")+"'")
		statuses = append(append(statuses, r.Status), r.Causes...)
	}
	if len(failed) == 0 {
		return nil
	}
	exit := &exitError{code: nix.ExitStatus(statuses...)}
	for _, r := range results {
		switch {
		case r.Status.Success() || r.Status == nix.StatusCancelled:
		case len(failed) == 1:
			exit.err = errors.New(withHint(&r))
		default:
			tell(withHint(&r))
		}
	}
	if len(failed) > 1 {
		exit.err = fmt.Errorf("build of %s failed", strings.Join(failed, ", "))
	}
	return exit
}
