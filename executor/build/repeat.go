package build

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/kilnbuild/kiln/executor/compare"
	"github.com/kilnbuild/kiln/executor/outputs"
	"github.com/kilnbuild/kiln/nix"
)

// checkSuffix is what the name of a kept output has more that differs from the one
// that there is (Nix manual, `--check`).
const checkSuffix = ".check"

// listedDifferences is how many differing files are told of, for each output.
const listedDifferences = 20

// compare holds what was built against the outputs that there are. It looks at
// all of them before it answers.
func (r *run) compare(ctx context.Context, result *Result) (map[nix.OutputName]nix.Realisation, error) {
	var messages []string
	err := outputs.Compare(ctx, r.machine.Store, r.job(), func(d outputs.Difference) error {
		difference, err := r.differs(ctx, d)
		if err != nil {
			return err
		}
		result.Differences = append(result.Differences, difference)
		messages = append(messages, r.notDeterministic(difference))
		return nil
	})
	if err == nil && len(messages) > 0 {
		err = nix.BuildErrorf(nix.StatusNotDeterministic, "%s", strings.Join(messages, "\n"))
	}
	var failed *nix.BuildError
	if err != nil && !errors.As(err, &failed) {
		return nil, fmt.Errorf("compare with what was built before: %w", err)
	}
	return r.known(), err
}

// differs finds out what is different in an output, and keeps it if somebody wants
// to have a look.
func (r *run) differs(ctx context.Context, d outputs.Difference) (nix.OutputDifference, error) {
	st := r.machine.Store
	difference := nix.OutputDifference{Output: d.Output, Path: d.Known}
	report, err := compare.Trees(ctx, st.RealPath(d.Known), d.Made, compare.Limits{Differences: listedDifferences})
	if err != nil {
		return difference, err
	}
	difference.Total = report.Total
	for _, f := range report.Differences {
		file := nix.FileDifference{Path: f.Path, Kind: string(f.Kind), Text: f.String()}
		if f.First != nil {
			file.Offset = f.First.Offset
		}
		difference.Files = append(difference.Files, file)
	}
	if !r.settings.KeepFailed && r.settings.Hooks.Diff == "" {
		return difference, nil
	}
	difference.Kept = d.Known + checkSuffix
	if err := st.Replace(ctx, d.Made, difference.Kept); err != nil {
		return difference, err
	}
	if r.settings.Hooks.Diff != "" {
		return difference, r.diffHook(ctx, &difference)
	}
	return difference, nil
}

// notDeterministic is the message about an output that differs: Nix's line, and
// under it what is different.
func (r *run) notDeterministic(d nix.OutputDifference) string {
	dir := r.machine.Store.Dir()
	var b strings.Builder
	fmt.Fprintf(&b, "derivation '%s' may not be deterministic: output '%s' differs", dir.Join(r.attempt.DrvPath), dir.Join(d.Path))
	if d.Kept != "" {
		fmt.Fprintf(&b, " from '%s'", dir.Join(d.Kept))
	}
	for _, f := range d.Files {
		fmt.Fprintf(&b, "\n  %s", f.Text)
	}
	if more := d.Total - len(d.Files); more > 0 {
		fmt.Fprintf(&b, "\n  … and %d more", more)
	}
	return b.String()
}
