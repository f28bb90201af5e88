package executor

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/kilnbuild/kiln/nix"
)

const (
	floatingDrv = nix.StorePath("11111111111111111111111111111111-floating.drv")
	makerDrv    = nix.StorePath("22222222222222222222222222222222-maker.drv.drv")
	source      = nix.StorePath("33333333333333333333333333333333-source")
	builtOut    = nix.StorePath("44444444444444444444444444444444-floating")
	builtDev    = nix.StorePath("55555555555555555555555555555555-floating-dev")
	builtInner  = nix.StorePath("66666666666666666666666666666666-inner")
)

func derivationWithInputs() *nix.Derivation {
	inner := nix.ComputedPlaceholder(nix.DownstreamPlaceholder(makerDrv, "out"), "out")
	return &nix.Derivation{
		BasicDerivation: nix.BasicDerivation{
			Name: "test", System: "x86_64-linux", Builder: nix.DownstreamPlaceholder(floatingDrv, "out") + "/bin/sh",
			Outputs:   map[nix.OutputName]nix.DerivationOutput{"out": {Kind: nix.Floating, Method: nix.Recursive, Algorithm: nix.SHA256}},
			InputSrcs: []nix.StorePath{source},
			Args:      []string{"-c", "cat " + inner + " " + inner + "/x"},
			Env: map[string]string{
				"dev":        nix.DownstreamPlaceholder(floatingDrv, "dev"),
				"out":        nix.Placeholder("out"),
				inner + "-x": "",
			},
		},
		InputDrvs: map[nix.StorePath]nix.InputOutputs{
			floatingDrv: {Outputs: []nix.OutputName{"dev", "out"}},
			makerDrv:    {Dynamic: map[nix.OutputName]nix.InputOutputs{"out": {Outputs: []nix.OutputName{"out"}}}},
		},
	}
}

func TestResolve(t *testing.T) {
	dir := nix.DefaultStoreDir
	drv := derivationWithInputs()
	got := resolve(dir, drv, realised{
		{floatingDrv, "", "out"}:  builtOut,
		{floatingDrv, "", "dev"}:  builtDev,
		{makerDrv, "out^", "out"}: builtInner,
	})
	want := &nix.Derivation{BasicDerivation: nix.BasicDerivation{
		Name: "test", System: "x86_64-linux", Builder: dir.Join(builtOut) + "/bin/sh",
		Outputs:   drv.Outputs,
		InputSrcs: []nix.StorePath{source, builtOut, builtDev, builtInner},
		Args:      []string{"-c", "cat " + dir.Join(builtInner) + " " + dir.Join(builtInner) + "/x"},
		Env: map[string]string{
			"dev":                       dir.Join(builtDev),
			"out":                       nix.Placeholder("out"),
			dir.Join(builtInner) + "-x": "",
		},
	}}
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(nix.Hash{})); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(derivationWithInputs(), drv, cmpopts.EquateComparable(nix.Hash{})); diff != "" {
		t.Errorf("the derivation itself was changed: %s", diff)
	}
}

func TestMustResolve(t *testing.T) {
	plain := map[nix.StorePath]nix.InputOutputs{floatingDrv: {Outputs: []nix.OutputName{"out"}}}
	dynamic := derivationWithInputs().InputDrvs
	for _, c := range []struct {
		inputs map[nix.StorePath]nix.InputOutputs
		kind   nix.OutputKind
		on     bool
		want   bool
	}{
		{nil, nix.Floating, true, false},
		{plain, nix.InputAddressed, true, false},
		{plain, nix.Deferred, true, true},
		{plain, nix.Floating, true, true},
		{plain, nix.Impure, true, true},
		{plain, nix.Fixed, true, true},
		{plain, nix.Fixed, false, false},
		{dynamic, nix.InputAddressed, true, true},
	} {
		if got := mustResolve(&nix.Derivation{InputDrvs: c.inputs}, c.kind, c.on); got != c.want {
			t.Errorf("%d inputs, %v, %v: %v", len(c.inputs), c.kind, c.on, got)
		}
	}
}
