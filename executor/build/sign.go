package build

import (
	"context"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/sign"
	"github.com/kilnbuild/kiln/store/local"
)

// signObject signs what was built, if there is a key to do it with.
func (s *Settings) signObject(dir nix.StoreDir, info *nix.PathInfo) error {
	if s.Sign == nil {
		return nil
	}
	fingerprint, err := sign.Object(dir, info)
	if err == nil {
		info.Signatures, err = s.Sign(fingerprint)
	}
	return err
}

// SignRealisation signs which object an output is, if there is a key to do it with: in the
// place of signatures that r has. (Nix: Store::signRealisation.)
func (s *Settings) SignRealisation(ctx context.Context, st *local.Store, r *nix.Realisation) error {
	r.Signatures = nil
	if s.Sign == nil {
		return nil
	}
	fingerprint, err := st.RealisationFingerprint(ctx, r)
	if err == nil {
		r.Signatures, err = s.Sign(fingerprint)
	}
	return err
}
