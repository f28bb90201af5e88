package remote

import (
	"bytes"
	"context"
	"fmt"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/aterm"
	"github.com/kilnbuild/kiln/nix/nar"
	"github.com/kilnbuild/kiln/store"
)

// AddDerivation adds a derivation as a file and gives its path.
func (s *Legacy) AddDerivation(ctx context.Context, drv *nix.Derivation) (nix.StorePath, error) {
	p, references, text, err := aterm.DerivationPath(s.opts.Dir, drv)
	if err != nil {
		return "", fmt.Errorf("add derivation '%s': %w", drv.Name, err)
	}
	if valid, err := s.ValidPaths(ctx, []nix.StorePath{p}); err != nil || len(valid) == 1 {
		return p, err
	}
	var archive bytes.Buffer
	w := nar.NewWriter(&archive, nar.Limits{})
	if err = w.WriteHeader(nar.Header{Type: nar.Regular, Size: int64(len(text))}); err == nil {
		_, err = w.Write(text)
	}
	if cerr := w.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return "", fmt.Errorf("add derivation '%s': %w", drv.Name, err)
	}
	info := &nix.PathInfo{
		Path: p, References: references, NARHash: nix.HashBytes(nix.SHA256, archive.Bytes()), NARSize: int64(archive.Len()),
		CA: nix.ContentAddress{Method: nix.Text, Hash: nix.HashBytes(nix.SHA256, text)},
	}
	return p, s.Add(ctx, info, &archive, store.AddOptions{})
}

// AddRoot says that the store is on another machine.
func (s *Legacy) AddRoot(_ context.Context, link string, _ nix.StorePath) error {
	return fmt.Errorf("make '%s' a root: %w", link, elsewhere(s.opts.Name))
}

// elsewhere is why nothing here can keep an object there.
func elsewhere(name string) error {
	return fmt.Errorf("the store %s is on another machine, where links of this one keep nothing; copy what you need with `kiln copy`", name)
}
