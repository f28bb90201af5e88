package rpc

import (
	"testing"

	kilnv1 "github.com/kilnbuild/kiln/api/kiln/v1"
	"github.com/kilnbuild/kiln/nix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// TestChoose chooses which sandbox of a build is entered.
func TestChoose(t *testing.T) {
	const dir = nix.DefaultStoreDir
	target, other, third := nix.StorePath("00000000000000000000000000000000-target.drv"), nix.StorePath("11111111111111111111111111111111-other.drv"), nix.StorePath("22222222222222222222222222222222-third.drv")
	for _, c := range []struct {
		name    string
		targets []nix.StorePath
		there   []nix.StorePath
		away    []nix.StorePath // on other machines
		wanted  nix.StorePath
		builder nix.StorePath // "" for none
		kept    nix.StorePath
	}{
		{name: "the only one", targets: []nix.StorePath{target}, there: []nix.StorePath{other}, builder: other, kept: other},
		{name: "that of the target", targets: []nix.StorePath{target}, there: []nix.StorePath{other, target}, builder: target, kept: target},
		{name: "one that is named", targets: []nix.StorePath{target}, there: []nix.StorePath{other, target}, wanted: other, builder: other, kept: other},
		{name: "several, none of them the target's", targets: []nix.StorePath{target}, there: []nix.StorePath{other, third}},
		{name: "several targets", targets: []nix.StorePath{target, other}, there: []nix.StorePath{other, target}},
		{name: "not the only one but one that another build has begun", targets: []nix.StorePath{target}, there: []nix.StorePath{other}, wanted: third, builder: third},
		{name: "none that we know of", targets: []nix.StorePath{target}, builder: target},
		{name: "none that could be meant", targets: []nix.StorePath{target, other}},
		{name: "one elsewhere", targets: []nix.StorePath{target}, there: []nix.StorePath{other}, away: []nix.StorePath{target}, builder: other, kept: other},
	} {
		info := &kilnv1.BuildInfo{Id: "b"}
		for _, p := range c.targets {
			info.Targets = append(info.Targets, dir.Join(p)+"^*")
		}
		for _, p := range c.there {
			info.Builders = append(info.Builders, &kilnv1.Builder{StorePath: dir.Join(p)})
			info.KeptSandboxes = append(info.KeptSandboxes, &kilnv1.KeptSandbox{Id: "of " + string(p), StorePath: dir.Join(p)})
		}
		for _, p := range c.away {
			info.Builders = append(info.Builders, &kilnv1.Builder{StorePath: dir.Join(p), Machine: "ssh://away"})
		}
		got, err := chooseBuilder(dir, info, c.wanted)
		if got != c.builder || (err == nil) != (c.builder != "") || err != nil && status.Code(err) != codes.FailedPrecondition {
			t.Errorf("%s: builder %q, %v; want %q", c.name, got, err, c.builder)
		}
		id, got, err := chooseKept(dir, info, c.wanted)
		if got != c.kept || c.kept != "" && id != "of "+string(c.kept) || (err == nil) != (c.kept != "") || err != nil && status.Code(err) != codes.FailedPrecondition {
			t.Errorf("%s: kept %q of %q, %v; want %q", c.name, id, got, err, c.kept)
		}
	}
}
