package outputs

import (
	"errors"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/store/local"
)

// Every output that differs is told of, and nothing in the store changes.
func TestCompare(t *testing.T) {
	s := newScene(t)
	for name, p := range map[nix.OutputName]nix.StorePath{"out": outPath, "dev": devPath, "doc": "44444444444444444444444444444444-test-doc"} {
		s.write(s.output(name, p), "as ever")
		s.job.Outputs[len(s.job.Outputs)-1].Known = p
	}
	registered := s.mustCollect()
	for i := range registered {
		registered[i].Info.Ultimate = false
	}
	s.register(registered)
	for _, o := range s.job.Outputs {
		text := "changed"
		if o.Name == "doc" {
			text = "as ever"
		}
		s.write(o.Actual, text)
	}

	found := make(map[nix.OutputName]string)
	err := Compare(t.Context(), s.store, &s.job, func(d Difference) error {
		text, err := os.ReadFile(d.Made)
		found[d.Output] = string(d.Known) + " " + string(text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[nix.OutputName]string{"out": string(outPath) + " changed", "dev": string(devPath) + " changed"}, found); diff != "" {
		t.Error(diff)
	}
	for _, o := range s.job.Outputs {
		if got := s.read(o.Known, ""); got != "as ever" {
			t.Errorf("%s has now %q", o.Name, got)
		}
		info, err := s.store.PathInfo(t.Context(), o.Known)
		if err != nil {
			t.Fatal(err)
		}
		if same := o.Name == "doc"; info.Ultimate != same {
			t.Errorf("%s counts as built here: %v", o.Name, info.Ultimate)
		}
	}
	if problems, err := s.store.Verify(t.Context(), local.VerifyOptions{CheckContents: true}); err != nil || problems > 0 {
		t.Errorf("%d problems, %v", problems, err)
	}
}

func TestCompareFloating(t *testing.T) {
	s := newScene(t)
	actual := s.floating("out", outPath, nix.Recursive, nix.SHA256)
	s.write(actual, "one")
	s.job.Outputs[0].Known = s.register(s.mustCollect())["out"].Path
	s.write(actual, "two")
	stop := errors.New("stop")
	if err := Compare(t.Context(), s.store, &s.job, func(Difference) error { return stop }); !errors.Is(err, stop) {
		t.Errorf("got %v, want the error of the callback", err)
	}
}

func TestCompareFixedWithAnotherHash(t *testing.T) {
	s := newScene(t)
	text := []byte("as stated")
	actual := s.fixed(nix.Flat, nix.HashBytes(nix.SHA256, text))
	s.job.Outputs[0].Known = s.job.Outputs[0].Scratch
	s.write(actual, string(text))
	s.register(s.mustCollect())
	s.write(actual, "not as stated")
	err := Compare(t.Context(), s.store, &s.job, func(Difference) error { return nil })
	var failed *nix.BuildError
	if !errors.As(err, &failed) || failed.Status != nix.StatusHashMismatch {
		t.Errorf("got %v, want a hash mismatch", err)
	}
}
