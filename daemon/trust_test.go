package daemon

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/sign"
	"github.com/kilnbuild/kiln/store/storetest"
	"github.com/kilnbuild/kiln/wire/worker"
)

// keyed is a store that trusts a key.
type keyed struct {
	*storetest.Memory
	keys sign.Keys
}

func (k keyed) VerifyRealisation(fingerprint string, signatures []string) error {
	if !k.keys.Trusted(fingerprint, signatures) {
		return errors.New("no signature is good")
	}
	return nil
}

// TestRegisterSigned has clients that are not trusted say what outputs are.
func TestRegisterSigned(t *testing.T) {
	const secret = "test.example-1:9XcYl8Dd4vfCDXxiqqI7shyW8euOSN6wMysCkU8anmv3kJNO08u2JTg17Q4uwY8DtvFZ6v7h9vpO12kjyNZQfg=="
	k, err := sign.ParseSecretKey(secret)
	if err != nil {
		t.Fatal(err)
	}
	keys := sign.NewKeys(k.Public())
	one := storetest.Built(t, nix.DefaultStoreDir, "one", false)
	r := nix.Realisation{ID: nix.DrvOutput{Drv: none + ".drv", Output: "out"}, OutPath: one.Info.Path}
	signature := k.Sign(sign.Realisation(&r))
	p := connect(t, t.Context(), Config{Store: keyed{newStore(t, one), keys}, Trust: worker.NotTrusted}, worker.Newest, worker.Features()...)
	register := func(signatures ...string) *worker.RegisterDrvOutput {
		signed := r
		signed.Signatures = signatures
		return &worker.RegisterDrvOutput{Realisation: &signed}
	}
	p.refused("lacks a signature by a trusted key", register())
	p.refused("lacks a signature by a trusted key", register("test.example-1:"+strings.Repeat("A", 86)+"=="))
	p.must(register(signature))
	p.usable()
	p.bye()

	bare := connect(t, t.Context(), Config{Store: newStore(t, one), Trust: worker.NotTrusted}, worker.Newest, worker.Features()...)
	bare.refused("not privileged", register(signature))
	bare.bye()
}

// TestCausesAreTold wants failures that others follow from to be told once each, and the
// error to be about what was asked for.
func TestCausesAreTold(t *testing.T) {
	b := buildFunc(func(_ context.Context, req *nix.BuildRequest) ([]nix.BuildResult, error) {
		return []nix.BuildResult{
			{Path: req.Paths[0], Status: nix.StatusDependencyFailed, CauseMessages: []string{"a failed", "b failed\nbadly"}, Message: "a failed\nb failed\nbadly\nx cannot be built"},
			{Path: req.Paths[1], Status: nix.StatusDependencyFailed, CauseMessages: []string{"a failed"}, Message: "a failed\ny cannot be built"},
		}, nil
	})
	p := connect(t, t.Context(), Config{Store: newStore(t), Builder: b}, worker.Newest)
	var said []string
	p.Next = func(text string) { said = append(said, strings.TrimPrefix(text, "\x1b[31;1merror:\x1b[0m ")) }
	p.must(&worker.BuildRequest{Operation: worker.OpBuildPathsWithResults, Paths: []nix.DerivedPath{nix.Opaque(none), nix.Opaque(none)}})
	var messages []string
	for _, r := range p.d.KeyedBuildResults() {
		messages = append(messages, r.Message)
	}
	if d := cmp.Diff([]string{"x cannot be built", "y cannot be built"}, messages); d != "" {
		t.Errorf("messages (-want +got):\n%s", d)
	}
	if d := cmp.Diff([]string{"a failed\n", "b failed\nbadly\n"}, said); d != "" {
		t.Errorf("said (-want +got):\n%s", d)
	}
	p.bye()
}
