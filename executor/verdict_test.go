package executor

import (
	"testing"

	"github.com/kilnbuild/kiln/nix"
)

// TestFirstFailure wants one failure to count, and if it follows from another one that was
// asked for as well, that one.
func TestFirstFailure(t *testing.T) {
	const a, b, c nix.StorePath = "00000000000000000000000000000000-a.drv", "00000000000000000000000000000000-b.drv", "00000000000000000000000000000000-c.drv"
	failed := func(at nix.StorePath) *outcome {
		return &outcome{result: nix.BuildResult{Status: nix.StatusMiscFailure}, failedAt: at}
	}
	good := built()
	v := newVerdict([]nix.DerivedPath{nix.Built(a, nix.AllOutputs), nix.Built(b, nix.AllOutputs), nix.Built(c, nix.AllOutputs)})
	if v.ended(2, failed(a)) {
		t.Error("the failure that it follows from does not count")
	}
	if !v.ended(0, failed("")) || v.ended(1, failed("")) {
		t.Error("not the first one counts")
	}
	if v.tooLate(0) || !v.tooLate(1) || !v.tooLate(2) {
		t.Errorf("too late are %v, %v, %v", v.tooLate(0), v.tooLate(1), v.tooLate(2))
	}
	v = newVerdict([]nix.DerivedPath{nix.Built(a, nix.AllOutputs), nix.Built(b, nix.AllOutputs)})
	if v.ended(0, &good) || !v.ended(1, failed(c)) || v.tooLate(0) || v.tooLate(1) {
		t.Error("one that failed because of something that was not asked for does not count")
	}
}
