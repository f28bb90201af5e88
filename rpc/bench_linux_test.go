package rpc

import (
	"context"
	"fmt"
	"sync"
	"testing"

	kilnv1 "github.com/kilnbuild/kiln/api/kiln/v1"
	"github.com/kilnbuild/kiln/nix"
)

// BenchmarkBuild compares a trivial build by the executor itself with one through the
// service, one at a time and all at once.
func BenchmarkBuild(b *testing.B) {
	m := newMachine(b, 2)
	m.start()
	c := m.dial()
	n := 0
	derivation := func() nix.StorePath {
		n++
		text := m.derivation(fmt.Sprint("trivial-", n), "echo > $out", nil)
		drv, err := parseText(m, text)
		if err != nil {
			b.Fatal(err)
		}
		path, err := m.store.AddDerivation(b.Context(), drv)
		if err != nil {
			b.Fatal(err)
		}
		return path
	}
	for _, way := range []struct {
		name    string
		builder nix.Builder
	}{{"direct", m.builder}, {"service", c}} {
		build := func(ctx context.Context, drv nix.StorePath) {
			results, err := way.builder.Build(ctx, &nix.BuildRequest{Paths: []nix.DerivedPath{nix.Built(drv, nix.AllOutputs)}, Log: nothing{}})
			if err != nil || results[0].Status != nix.StatusBuilt {
				b.Errorf("%+v, %v", results, err)
			}
		}
		b.Run(way.name+"/one-by-one", func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				drv := derivation()
				b.StartTimer()
				build(b.Context(), drv)
			}
		})
		b.Run(way.name+"/queued", func(b *testing.B) {
			for b.Loop() {
				b.StopTimer()
				var drvs []nix.StorePath
				for range 200 {
					drvs = append(drvs, derivation())
				}
				b.StartTimer()
				var wg sync.WaitGroup
				for _, drv := range drvs {
					wg.Go(func() { build(b.Context(), drv) })
				}
				wg.Wait()
			}
			b.ReportMetric(float64(b.Elapsed().Microseconds())/float64(b.N)/200/1000, "ms/build")
		})
	}
}

type nothing struct{}

func (nothing) BuildLog(nix.StorePath, []byte) {}
func (nothing) Event(nix.Event)                {}

// BenchmarkGet is what a call costs.
func BenchmarkGet(b *testing.B) {
	m := newMachine(b, 1)
	m.start()
	c := m.dial()
	for b.Loop() {
		if _, err := c.Executor.GetCapabilities(b.Context(), &kilnv1.GetCapabilitiesRequest{}); err != nil {
			b.Fatal(err)
		}
	}
}
