package build

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/kilnbuild/kiln/executor/outputs"
	"github.com/kilnbuild/kiln/nix"
)

// checkSuffix is what the name of a kept output has more that differs from the one
// that there is (Nix manual, `--check`).
const checkSuffix = ".check"

// compare holds what was built against the outputs that there are.
func (r *run) compare(ctx context.Context) (map[nix.OutputName]nix.Realisation, error) {
	a, st := r.attempt, r.machine.Store
	drv := st.Dir().Join(a.DrvPath)
	var different []string
	err := outputs.Compare(ctx, st, r.job(), func(d outputs.Difference) error {
		known := st.Dir().Join(d.Known)
		message := fmt.Sprintf("derivation '%s' may not be deterministic: output '%s' differs", drv, known)
		if r.settings.KeepFailed {
			kept := d.Known + checkSuffix
			if err := st.Replace(ctx, d.Made, kept); err != nil {
				return err
			}
			message += fmt.Sprintf(" from '%s'", st.Dir().Join(kept))
		}
		different = append(different, message)
		return nil
	})
	if err == nil && len(different) > 0 {
		err = nix.BuildErrorf(nix.StatusNotDeterministic, "%s", strings.Join(different, "\n"))
	}
	var failed *nix.BuildError
	if err != nil && !errors.As(err, &failed) {
		return nil, fmt.Errorf("compare with what was built before: %w", err)
	}
	return r.known(), err
}
