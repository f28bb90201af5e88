//go:build linux

package interop

import (
	"archive/tar"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kilnbuild/kiln/internal/testenv"
)

// TestT07BuiltinsAreIsolated asks the builders that are part of kiln for files of the
// machine that everybody may read. They must see as little of it as any builder.
// The store is one in which a builder that is not isolated works just as well.
func TestT07BuiltinsAreIsolated(t *testing.T) {
	needs(t)
	scene := newPlainScene(t)
	store, _ := unmovedStore(scene)
	kiln := newSide(t, "kiln", "store", scene, takeLane(t))
	secret, archive, escape := scene.Path("secret"), scene.Path("archive.tar"), scene.Path("escape.tar")
	victim := filepath.Join(scene.Mkdir("victim"), "file")
	for file, content := range map[string][]byte{
		secret: []byte("a secret of the machine\n"), archive: tarWith(t, "top/file", ""), escape: tarWith(t, "top", filepath.Dir(victim)),
	} {
		if err := os.WriteFile(file, content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(filepath.Dir(victim), 0o777); err != nil {
		t.Fatal(err)
	}
	hash := must(t, sceneCommand(scene, "nix-hash", "--type", "sha256", "--flat", secret))[0]

	fetch := `derivation { name = "fetched"; system = "builtin"; builder = "builtin:fetchurl"; url = "%s"; outputHashMode = "flat"; outputHashAlgo = "sha256"; outputHash = "%s"; }`
	unpack := `derivation { name = "unpacked"; inherit system; builder = "builtin:unpack-channel"; channelName = "x"; src = %s; }`
	for _, c := range []struct{ name, expr, says string }{
		{"file of the machine", fmt.Sprintf(fetch, "file://"+secret, hash), "no such file or directory"},
		{"by another process", fmt.Sprintf(fetch, fmt.Sprintf("file:///proc/%d/root%s", os.Getpid(), secret), hash), "no such file or directory"},
		{"by the first process", fmt.Sprintf(fetch, "file:///proc/1/root"+secret, hash), "no such file or directory"},
		{"archive of the machine", fmt.Sprintf(unpack, `"`+archive+`"`), "no such file or directory"},
		{"archive that leads out", fmt.Sprintf(unpack, `"${builtins.path { path = `+escape+`; name = "escape.tar"; }}"`), "top/file"},
	} {
		drv := instantiateText(t, scene, store, c.expr)
		words := append([]string{testenv.Kiln(t), "build", "--store", store}, kiln.options(t, nil)...)
		o := run(t, kiln.command(append(words, drv)...))
		if o.exit == 0 || !strings.Contains(o.stderr, c.says) {
			t.Errorf("%s: exit %d, want a failure with %q:\n%s", c.name, o.exit, c.says, o.stderr)
		}
	}
	for _, file := range mentioning(t, scene.Path("unmoved"), "a secret of the machine") {
		t.Errorf("the file of the machine is in %s", file)
	}
	if exists(victim) {
		t.Errorf("an archive was unpacked to %s", victim)
	}
}

// tarWith is an archive with one file; if a link is named, its directory is a
// symbolic link to that.
func tarWith(t *testing.T, name, link string) []byte {
	t.Helper()
	var out bytes.Buffer
	w := tar.NewWriter(&out)
	var members []tar.Header
	if link != "" {
		members = append(members, tar.Header{Typeflag: tar.TypeSymlink, Name: name, Linkname: link, Mode: 0o777})
		name += "/file"
	}
	for _, m := range append(members, tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: 0o644}) {
		if err := w.WriteHeader(&m); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// TestT14BuiltinsTakeData gives builtin:fetchurl attributes that mean something to
// programs, and lets it fetch what it is: its environment is empty, its command
// line only its name, and there is nothing left to read where it was told what to
// do.
func TestT14BuiltinsTakeData(t *testing.T) {
	needs(t)
	scene := newScene(t)
	kiln := newSide(t, "kiln", "store", scene, takeLane(t))
	tries := 0
	for url, content := range map[string]string{
		"file:///proc/self/environ": "", "file:///proc/self/cmdline": "kiln-builtin\x00", "file:///proc/self/fd/0": "no such file or directory",
		// A shell, or a decoder that knows more than data, would find something to do.
		"file:///proc/self/environ;echo x >$out": "no such file or directory", "$(cat /etc/passwd)": "there is no way to fetch",
		"| cat /etc/passwd": "unable to download",
	} {
		file := scene.Path("content")
		if err := os.WriteFile(file, []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
		hash := must(t, sceneCommand(scene, "nix-hash", "--type", "sha256", "--flat", file))[0]
		drv := instantiateText(t, scene, kiln.store, fmt.Sprintf(`derivation {
			name = "fetched-%d"; system = "builtin"; builder = "builtin:fetchurl"; url = %q;
			outputHashMode = "flat"; outputHashAlgo = "sha256"; outputHash = "%s"; args = [ "-c" "echo x" "--load" "/build/x" ];
			GODEBUG = "netdns=cgo"; GOTRACEBACK = "crash"; LD_PRELOAD = "/build/x.so"; PATH = "/build"; HOME = "/build"; BASH_ENV = "/build/x";
			http_proxy = "http://proxy.invalid"; SSL_CERT_FILE = "/build/x"; KILN_ANYTHING = "1"; netrc = "machine x"; impureEnvVars = "USER";
		}`, tries, strings.ReplaceAll(url, "$", `\$`), hash))
		tries++
		o := run(t, kiln.build(t, nil, nil, target{drv: drv}))
		switch {
		case !strings.Contains(content, " ") && o.exit != 0:
			t.Errorf("%s: exit %d:\n%s", url, o.exit, o.stderr)
		case strings.Contains(content, " ") && (o.exit == 0 || !strings.Contains(o.stderr, content)):
			t.Errorf("%s: exit %d, want a failure with %q:\n%s", url, o.exit, content, o.stderr)
		}
	}
}
