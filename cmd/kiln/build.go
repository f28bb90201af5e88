package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/kilnbuild/kiln/executor"
	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/store/local"
	"github.com/spf13/cobra"
)

// buildFlags are the flags of `kiln build` that are no settings.
type buildFlags struct {
	json, dryRun, printLogs bool
	logFormat               logFormatFlag
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
			return runBuild(c.Context(), g, &flags, args)
		},
	}
	c.Flags().BoolVar(&flags.json, "json", false, "print the results as JSON, with the isolation report")
	c.Flags().BoolVar(&flags.dryRun, "dry-run", false, "only say what would be built")
	c.Flags().BoolVarP(&flags.printLogs, "print-build-logs", "L", false, "show what builders print while they run")
	flags.logFormat.register(c.Flags())
	g.overrideSwitch(c, "keep-failed", "K", "keep-failed", "keep the build directories of builds that fail")
	g.overrideSwitch(c, "keep-going", "k", "keep-going", "carry on with what does not depend on a failure")
	g.override(c, "max-jobs", "j", "max-jobs", "how many builders run at once; auto for one a processor")
	g.override(c, "cores", "", "cores", "how many processors a builder should use; 0 for all")
	g.override(c, "timeout", "", "timeout", "seconds after which a builder is killed; 0 for never")
	g.override(c, "max-silent-time", "", "max-silent-time", "seconds without output after which a builder is killed; 0 for never")
	return c
}

func runBuild(ctx context.Context, g *globals, flags *buildFlags, args []string) error {
	return g.withStore(ctx, false, func(c *configuration, st *local.Store) (err error) {
		var paths []nix.DerivedPath
		for _, arg := range args {
			p, err := buildArg(ctx, st, arg)
			if err != nil {
				return err
			}
			paths = append(paths, p)
		}
		screen := newScreen(st.Dir(), g, flags, c.settings.LogLines)
		defer screen.Close()
		x, closeExecutor, err := c.executor(st, screen.ShowsLogs())
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, closeExecutor()) }()

		if flags.dryRun {
			return dryRun(ctx, x, st, paths)
		}
		results, err := x.Build(ctx, &nix.BuildRequest{Paths: paths, Log: screen})
		screen.Close()
		if err != nil {
			return err
		}
		if g.verbose > 0 {
			printIsolation(os.Stderr, results)
		}
		if flags.json {
			if err := printResultsJSON(os.Stdout, st.Dir(), results); err != nil {
				return err
			}
		}
		if err := failures(st.Dir(), results, screen.fail); err != nil {
			return screen.report(err)
		}
		if !flags.json {
			printOutputs(st.Dir(), results)
		}
		return nil
	})
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
			exit.err = errors.New(r.Message)
		default:
			tell(r.Message)
		}
	}
	if len(failed) > 1 {
		exit.err = fmt.Errorf("build of %s failed", strings.Join(failed, ", "))
	}
	return exit
}

func dryRun(ctx context.Context, x *executor.Executor, st *local.Store, paths []nix.DerivedPath) error {
	plan, err := x.Plan(ctx, paths)
	if err != nil {
		return err
	}
	if n := len(plan.Build); n > 0 {
		noun := "derivations"
		if n == 1 {
			noun = "derivation"
		}
		fmt.Fprintf(os.Stderr, "%d %s will be built:\n", n, noun)
		for _, p := range plan.Build {
			fmt.Fprintf(os.Stderr, "  %s\n", st.Dir().Join(p))
		}
	}
	if len(plan.Unknown) > 0 {
		fmt.Fprintln(os.Stderr, "don't know how to build these paths:")
		for _, p := range plan.Unknown {
			fmt.Fprintf(os.Stderr, "  %s\n", st.Dir().Join(p))
		}
	}
	return nil
}

// resultJSON is one result as `kiln build --json` prints it. The first two fields
// are those of `nix build --json`.
type resultJSON struct {
	DrvPath          string            `json:"drvPath"`
	Outputs          map[string]string `json:"outputs"`
	Status           string            `json:"status"`
	Success          bool              `json:"success"`
	Message          string            `json:"errorMsg,omitempty"`
	TimesBuilt       int               `json:"timesBuilt"`
	StartTime        int64             `json:"startTime,omitempty"`
	StopTime         int64             `json:"stopTime,omitempty"`
	UserTime         float64           `json:"cpuUser,omitempty"`   // seconds
	SystemTime       float64           `json:"cpuSystem,omitempty"` // seconds
	MaxRSS           int64             `json:"maxRSS,omitempty"`    // bytes
	KeptBuildDir     string            `json:"keptBuildDir,omitempty"`
	NonDeterministic bool              `json:"isNonDeterministic"`
	Isolation        *isolationJSON    `json:"isolation,omitempty"`
}

type isolationJSON struct {
	Level  string      `json:"level"`
	Layers []layerJSON `json:"layers"`
}

type layerJSON struct {
	Name    string `json:"name"`
	Asked   string `json:"asked"`
	InForce string `json:"inForce"`
	Why     string `json:"why,omitempty"`
}

func printResultsJSON(w *os.File, dir nix.StoreDir, results []nix.BuildResult) error {
	list := make([]resultJSON, 0, len(results))
	for _, r := range results {
		j := resultJSON{
			DrvPath: dir.Join(r.Path.Path), Outputs: make(map[string]string),
			Status: r.Status.String(), Success: r.Status.Success(), Message: r.Message, TimesBuilt: r.TimesBuilt,
			KeptBuildDir: r.KeptBuildDir, NonDeterministic: r.NonDeterministic,
		}
		for name, o := range r.Outputs {
			j.Outputs[string(name)] = dir.Join(o.OutPath)
		}
		if !r.Start.IsZero() {
			j.StartTime, j.StopTime = r.Start.Unix(), r.Stop.Unix()
		}
		if r.Resources != nil {
			j.UserTime, j.SystemTime, j.MaxRSS = r.Resources.UserTime.Seconds(), r.Resources.SystemTime.Seconds(), r.Resources.MaxRSS
		}
		if r.Isolation != nil {
			j.Isolation = &isolationJSON{Level: r.Isolation.Level}
			for _, l := range r.Isolation.Layers {
				j.Isolation.Layers = append(j.Isolation.Layers, layerJSON(l))
			}
		}
		list = append(list, j)
	}
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(list)
}
