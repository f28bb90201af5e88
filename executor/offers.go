package executor

import (
	"context"
	"errors"
	"sync"

	"github.com/kilnbuild/kiln/executor/substitute"
	"github.com/kilnbuild/kiln/internal/until"
	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/store"
	"github.com/kilnbuild/kiln/store/local"
)

// Offers gives what the substituters have of some objects, nil for those that none of
// them has. Their content addresses may be given. With mass set, only those are asked
// that want to be asked for many.
func (v *View) Offers(ctx context.Context, paths []nix.StorePath, cas map[nix.StorePath]nix.ContentAddress, mass bool) ([]*substitute.Offer, error) {
	found := make([]*substitute.Offer, len(paths))
	if v.settings.Substituters == nil {
		return found, nil
	}
	o := newOffers(v.settings.Substituters)
	o.mass = mass
	err := until.Each(ctx, len(paths), lookups, func(ctx context.Context, i int) (err error) {
		found[i], err = o.of(ctx, paths[i], cas[paths[i]])
		return err
	})
	return found, err
}

// offers are what the substituters have, each object asked for once.
type offers struct {
	set  *substitute.Set
	mass bool // whether only those are asked that want to be asked for many

	mu       sync.Mutex
	known    map[nix.StorePath]*offerAnswer
	realised map[nix.DrvOutput]*realisationAnswer
	warnings []string
}

type offerAnswer struct {
	once  sync.Once
	offer *substitute.Offer // nil for none
	err   error
}

type realisationAnswer struct {
	once sync.Once
	path nix.StorePath // "" for none
	err  error
}

func newOffers(set *substitute.Set) *offers {
	return &offers{set: set, known: make(map[nix.StorePath]*offerAnswer), realised: make(map[nix.DrvOutput]*realisationAnswer)}
}

// of gives the offer of an object, nil if there is none. Trouble with substituters is
// no error, but a warning.
func (o *offers) of(ctx context.Context, p nix.StorePath, ca nix.ContentAddress) (*substitute.Offer, error) {
	if o.set == nil {
		return nil, nil
	}
	o.mu.Lock()
	a := o.known[p]
	if a == nil {
		a = &offerAnswer{}
		o.known[p] = a
	}
	o.mu.Unlock()
	a.once.Do(func() { a.offer, a.err = o.ask(ctx, p, ca) })
	return a.offer, a.err
}

func (o *offers) ask(ctx context.Context, p nix.StorePath, ca nix.ContentAddress) (*substitute.Offer, error) {
	all, err := o.set.Substituters(ctx, o.warn)
	if err != nil {
		return nil, err
	}
	for _, from := range all {
		if o.mass && !from.WantMassQuery {
			continue
		}
		offer, err := o.set.Ask(ctx, from, p, ca)
		if err == nil {
			return offer, nil
		}
		if cause := context.Cause(ctx); cause != nil {
			return nil, cause
		}
		if !errors.Is(err, store.ErrNotFound) {
			o.warn(err.Error())
		}
	}
	return nil, nil
}

// realisation gives the object that an output is as a substituter has it, "" if none says
// so. It is not known yet whether that one can be fetched.
func (o *offers) realisation(ctx context.Context, st *local.Store, id nix.DrvOutput) (nix.StorePath, error) {
	if o.set == nil || o.mass {
		return "", nil
	}
	o.mu.Lock()
	a := o.realised[id]
	if a == nil {
		a = &realisationAnswer{}
		o.realised[id] = a
	}
	o.mu.Unlock()
	a.once.Do(func() { a.path, a.err = o.askRealisation(ctx, st, id) })
	return a.path, a.err
}

func (o *offers) askRealisation(ctx context.Context, st *local.Store, id nix.DrvOutput) (nix.StorePath, error) {
	all, err := o.set.Substituters(ctx, o.warn)
	if err != nil || len(all) == 0 {
		return "", err
	}
	legacy, err := st.LegacyRealisationID(ctx, id)
	if err != nil {
		return "", err
	}
	for _, from := range all {
		r, err := o.set.Realisation(ctx, from, id, legacy)
		if err == nil {
			return r.OutPath, nil
		}
		if cause := context.Cause(ctx); cause != nil {
			return "", cause
		}
		if !errors.Is(err, store.ErrNotFound) {
			o.warn(err.Error())
		}
	}
	return "", nil
}

func (o *offers) warn(text string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.warnings = append(o.warnings, text)
}
