package outputs

import (
	"context"
	"errors"
	"time"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/store/local"
)

// Difference is an output that is not what it was when it was built before.
type Difference struct {
	Output nix.OutputName
	Known  nix.StorePath // the object that there is
	Made   string        // the files that were made this time, canonical
	Path   nix.StorePath // the object that they would be
}

// Compare makes objects of what a build left, like Collect, but puts none of them
// into the store: they are compared with those that a build of the same
// derivation has made before. differs is called for every output that is
// different, while its files are there; it may move them away.
//
// Outputs that have come out the same count as built here from then on.
func Compare(ctx context.Context, st *local.Store, job *Job, differs func(Difference) error) (err error) {
	c := newCollector(st, job)
	defer func() { err = errors.Join(err, c.clean()) }()
	all, mismatch, err := c.make(ctx)
	if err != nil {
		return err
	}
	if mismatch != nil {
		return mismatch
	}
	var same []local.Registration
	for _, m := range all {
		known, err := st.PathInfo(ctx, m.expected)
		if err != nil {
			return err
		}
		if known.NARHash != m.Info.NARHash {
			if err := differs(Difference{Output: m.Output, Known: known.Path, Made: m.from, Path: m.Info.Path}); err != nil {
				return err
			}
			continue
		}
		if !known.Ultimate {
			confirmed := *known
			confirmed.Ultimate, confirmed.RegistrationTime = true, time.Now()
			same = append(same, local.Registration{Info: confirmed})
		}
	}
	return st.Register(ctx, same)
}
