package main

import (
	"fmt"
	"os"

	"github.com/kilnbuild/kiln/store/gc"
	"github.com/kilnbuild/kiln/store/local"
)

// autoCollect makes what collects garbage while builds use the store, by the settings
// min-free and max-free; nil if they say that nobody does. The caller closes it.
func (c *configuration) autoCollect(st *local.Store, verbose int) *gc.Auto {
	s := c.settings
	if s.MinFree == 0 {
		return nil
	}
	a := gc.NewAuto(st, gc.AutoOptions{
		Keep: c.keep(), MinFree: uint64(s.MinFree), MaxFree: uint64(s.MaxFree), Interval: s.MinFreeCheckInterval,
		Report: func(p gc.Problem) {
			// What is strange about roots is for whoever collects by hand.
			if verbose > 0 && !p.Usual || p.Name == "" {
				fmt.Fprintf(os.Stderr, "warning: %v\n", p)
			}
		},
		Ended: func(r *gc.Result, err error) {
			if err != nil {
				fmt.Fprintf(os.Stderr, "warning: %v\n", err)
			}
			if verbose > 0 && r != nil {
				fmt.Fprintf(os.Stderr, "little space was left: %d store paths deleted, %s freed\n", len(r.Paths), humanBytes(r.Freed))
			}
		},
	})
	st.OnAdd(a.Look)
	return a
}
