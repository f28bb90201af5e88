package binarycache

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/kilnbuild/kiln/internal/testenv"
	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/sign"
	"github.com/kilnbuild/kiln/store"
	"github.com/kilnbuild/kiln/store/storetest"
)

// TestRealNix has real Nix read what was written here, and the other way round, each
// with signatures required.
func TestRealNix(t *testing.T) {
	testenv.NixVersion(t)
	scene := testenv.NewScene(t, "")
	k, err := sign.GenerateKey("ours-1")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(scene.Path("secret"), []byte(k.Text()), 0o600); err != nil {
		t.Fatal(err)
	}
	run := func(words ...string) (string, error) {
		cmd := exec.Command("nix", append([]string{"--option", "trusted-public-keys", k.Public().String()}, words...)...)
		cmd.Env = scene.Env()
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	dep := storetest.Text(t, dir, "dep", "text")
	o := storetest.Built(t, dir, "built", true, dep.Info.Path)
	full := dir.Join(o.Info.Path)
	for _, method := range []string{"none", "xz", "zstd", "br"} {
		opts := Options{Compression: method, Keys: []sign.SecretKey{k}}
		if (compressor{method: method}).check() != nil {
			continue
		}
		ours, path := create(t, opts)
		storetest.Add(t, ours, dep, o)
		real := "local?root=" + scene.Path("root-"+method)
		if out, err := run("copy", "--from", "file://"+path, "--to", real, full); err != nil {
			t.Fatalf("%s: real Nix cannot read it: %v\n%s", method, err, out)
		}
		if out, err := run("store", "verify", "--store", real, "--recursive", full); err != nil {
			t.Errorf("%s: %v\n%s", method, err, out)
		}

		theirs := scene.Path("cache-" + method)
		if out, err := run("copy", "--from", real, "--to", "file://"+theirs+"?compression="+method+"&secret-key="+scene.Path("secret"), full); err != nil {
			t.Fatalf("%s: %v\n%s", method, err, out)
		}
		c, err := OpenDirectory(t.Context(), theirs, Options{})
		if err != nil {
			t.Fatal(err)
		}
		o.Info.Signatures = nil
		back, _ := create(t, Options{Trusted: sign.NewKeys(k.Public()), Compression: "none"})
		if err := store.CopyClosure(t.Context(), c, back, []nix.StorePath{o.Info.Path}, store.CopyOptions{CheckSignatures: true}); err != nil {
			t.Errorf("%s: read what real Nix wrote: %v", method, err)
		}
		info, err := back.PathInfo(t.Context(), o.Info.Path)
		if err != nil || info.NARHash != o.Info.NARHash || len(info.References) != 2 {
			t.Errorf("%s: %+v, %v", method, info, err)
		}
	}
	// Without a signature, real Nix does not take it.
	unsigned, path := create(t, Options{Compression: "none"})
	storetest.Add(t, unsigned, dep, o)
	if out, err := run("copy", "--from", "file://"+path, "--to", "local?root="+scene.Path("root"), full); err == nil || !strings.Contains(out, "lacks a") {
		t.Errorf("without a signature: %v\n%s", err, out)
	}
}
