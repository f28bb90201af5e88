package outputs

import (
	"bytes"
	"context"
	"fmt"
	"strings"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/aterm"
)

// maxDerivation bounds the size of a derivation that a builder may make, in bytes.
const maxDerivation = 256 << 20

// checkDerivation refuses an output whose name is that of a derivation and that is
// none, or states other output paths than follow from it: the store would not
// register it, and by then it would be in its place.
func (c *collector) checkDerivation(ctx context.Context, m *made) error {
	p := m.Info.Path
	if !p.IsDerivation() {
		return nil
	}
	err := c.parseDerivation(ctx, m)
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	if err != nil {
		return nix.BuildErrorf(nix.StatusOutputRejected, "error parsing derivation '%s', the output '%s' of '%s': %v",
			c.store.Dir().Join(p), m.Output, c.store.Dir().Join(c.job.DrvPath), err)
	}
	return nil
}

func (c *collector) parseDerivation(ctx context.Context, m *made) error {
	if size := m.Info.NARSize; size > maxDerivation {
		return fmt.Errorf("it has %d bytes, at most %d are allowed", size, maxDerivation)
	}
	var text bytes.Buffer
	if err := readFile(m.from, &text); err != nil {
		return err
	}
	name := strings.TrimSuffix(m.Info.Path.Name(), nix.DrvExtension)
	drv, err := aterm.Parse(c.store.Dir(), name, text.Bytes(), aterm.Limits{})
	if err != nil {
		return err
	}
	return c.store.Hasher().CheckInvariants(ctx, m.Info.Path, drv)
}
