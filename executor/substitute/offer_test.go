package substitute

import (
	"context"
	"io"
	"slices"
	"testing"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/store"
	"github.com/kilnbuild/kiln/store/storetest"
)

// told is a store that notes by which names it is asked for what it has told of.
type told struct {
	*storetest.Memory
	read, forgotten []nix.StorePath
}

func (s *told) KnownNAR(ctx context.Context, info *nix.PathInfo, w io.Writer) error {
	s.read = append(s.read, info.Path)
	return s.NAR(ctx, info.Path, w)
}

func (s *told) Forget(p nix.StorePath) { s.forgotten = append(s.forgotten, p) }

// TestOfferPassesOn copies what is offered under another name, with and without success: the
// substituter is asked, and told to forget, by its own name.
func TestOfferPassesOn(t *testing.T) {
	o := storetest.Built(t, dir, "o", false)
	there := &told{Memory: storetest.NewMemory(dir)}
	storetest.Add(t, there.Memory, o)
	offered := o.Info
	offered.Path = "00000000000000000000000000000000-o"
	offer := &Offer{From: &Substituter{Name: "there", Store: there}, Info: &offered, there: o.Info.Path}
	to := storetest.NewMemory(dir)
	for _, fits := range []bool{true, false} {
		if !fits {
			offered.NARHash = nix.HashBytes(nix.SHA256, nil)
		}
		err := store.Copy(t.Context(), offer, to, []nix.StorePath{offered.Path}, store.CopyOptions{Repair: true})
		if fits != (err == nil) {
			t.Errorf("error %v", err)
		}
		if fits != (len(there.forgotten) == 0) {
			t.Errorf("%v are forgotten after error %v", there.forgotten, err)
		}
	}
	want := []nix.StorePath{o.Info.Path}
	if !slices.Equal(there.forgotten, want) || !slices.Equal(there.read, append(want, want...)) {
		t.Errorf("read %v, forgotten %v", there.read, there.forgotten)
	}
}
