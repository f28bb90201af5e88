package nix_test

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/kilnbuild/kiln/internal/testenv"
	"github.com/kilnbuild/kiln/nix"
)

// What the Nix of this machine computes for a file is what we compute.
func TestRealNix(t *testing.T) {
	testenv.NixVersion(t)
	scene := testenv.NewScene(t, "")
	run := func(program string, args ...string) string {
		t.Helper()
		cmd := exec.Command(program, args...)
		cmd.Env = scene.Env()
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("%s: %v", cmd, err)
		}
		return strings.TrimSpace(string(out))
	}
	file := scene.Path("some-file")
	content := []byte("some text\x00\n")
	if err := os.WriteFile(file, content, 0o644); err != nil {
		t.Fatal(err)
	}
	for _, algo := range []nix.HashAlgorithm{nix.MD5, nix.SHA1, nix.SHA256, nix.SHA512} {
		flat := nix.HashBytes(algo, content)
		if got, want := run("nix-hash", "--flat", "--type", algo.String(), file), flat.Base16(); got != want {
			t.Errorf("%s is %s, want %s", algo, want, got)
		}
		if got, want := run("nix-hash", "--flat", "--type", algo.String(), "--base32", file), flat.Nix32(); got != want {
			t.Errorf("%s in base32 is %s, want %s", algo, want, got)
		}
		tree, err := nix.ParseDigest(algo, run("nix-hash", "--type", algo.String(), "--base32", file))
		if err != nil {
			t.Fatal(err)
		}
		for _, test := range []struct {
			ca   nix.ContentAddress
			args []string
		}{
			{nix.ContentAddress{Method: nix.Flat, Hash: flat}, nil},
			{nix.ContentAddress{Method: nix.Recursive, Hash: tree}, []string{"--recursive"}},
		} {
			args := append([]string{"--store", scene.Path("root"), "--add-fixed"}, test.args...)
			want := run("nix-store", append(args, algo.String(), file)...)
			got, err := nix.MakeContentAddressedPath(dir, "some-file", test.ca, nix.References{})
			if err != nil || dir.Join(got) != want {
				t.Errorf("path for %s is %s, %v, want %s", test.ca, got, err, want)
			}
		}
	}
}
