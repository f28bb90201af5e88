package substitute

import (
	"context"
	"fmt"
	"io"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/store"
)

var _ store.Source = (*Offer)(nil)

// PathInfo implements store.Source.
func (o *Offer) PathInfo(_ context.Context, p nix.StorePath) (*nix.PathInfo, error) {
	if err := o.is(p); err != nil {
		return nil, err
	}
	info := *o.Info
	return &info, nil
}

// NAR implements store.Source.
func (o *Offer) NAR(ctx context.Context, p nix.StorePath, w io.Writer) error {
	if err := o.is(p); err != nil {
		return err
	}
	return o.From.Store.NAR(ctx, o.there, w)
}

func (o *Offer) is(p nix.StorePath) error {
	if p != o.Info.Path {
		return fmt.Errorf("path '%s' in what '%s' offers: %w", p, o.From.Name, store.ErrNotFound)
	}
	return nil
}
