package substitute

import (
	"context"
	"fmt"
	"io"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/store"
)

var (
	_ store.KnownSource     = (*Offer)(nil)
	_ store.ForgetfulSource = (*Offer)(nil)
)

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

// KnownNAR implements store.KnownSource.
func (o *Offer) KnownNAR(ctx context.Context, info *nix.PathInfo, w io.Writer) error {
	known, ok := o.From.Store.(store.KnownSource)
	if !ok || info.Path != o.Info.Path {
		return o.NAR(ctx, info.Path, w)
	}
	there := *info
	there.Path = o.there
	return known.KnownNAR(ctx, &there, w)
}

// Forget implements store.ForgetfulSource.
func (o *Offer) Forget(nix.StorePath) {
	if from, ok := o.From.Store.(store.ForgetfulSource); ok {
		from.Forget(o.there)
	}
}

func (o *Offer) is(p nix.StorePath) error {
	if p != o.Info.Path {
		return fmt.Errorf("path '%s' in what '%s' offers: %w", p, o.From.Name, store.ErrNotFound)
	}
	return nil
}
