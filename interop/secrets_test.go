//go:build linux

package interop

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// TestT26Secrets gives kiln passwords in every way that there is, and has servers
// and builders that make it talk. What it prints, and every file that it leaves,
// must have none of them.
func TestT26Secrets(t *testing.T) {
	needs(t)
	const ofNetrc, ofMirror, ofProxy, ofToken = "NetrcPassword", "MirrorPassword", "ProxyPassword", "ImpureToken"
	key := base64.StdEncoding.EncodeToString(bytes.Repeat([]byte("SigningKey"), 7)[:64])
	secrets := []string{ofNetrc, ofMirror, ofProxy, ofToken, key, inBasic("me", ofNetrc), inBasic("operator", ofMirror), inBasic("proxy", ofProxy)}
	scene := newScene(t)
	kiln := newSide(t, "kiln", "store", scene, takeLane(t))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, password, _ := r.BasicAuth()
		if r.URL.Path == "/file" && password == ofNetrc {
			fmt.Fprint(w, "content")
			return
		}
		// Some servers say what they were asked.
		http.Error(w, fmt.Sprintf("refused\n%v\n%s\n%s:%s", r.Header, r.Header.Get("Authorization"), user, password), http.StatusUnauthorized)
	}))
	defer server.Close()
	address := server.Listener.Addr().String()

	inputs := scene.Mkdir("inputs")
	host, _, _ := strings.Cut(address, ":")
	for name, text := range map[string]string{
		"netrc": "machine " + host + " login me password " + ofNetrc, "key": "test-1:" + key,
	} {
		if err := os.WriteFile(filepath.Join(inputs, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	options := map[string]string{
		"netrc-file": filepath.Join(inputs, "netrc"), "secret-key-files": filepath.Join(inputs, "key"),
		"hashed-mirrors": "http://operator:" + ofMirror + "@" + address + "/mirror http://operator:" + ofMirror + "@127.0.0.1:1",
		"impure-env":     "TOKEN=" + ofToken, "extra-experimental-features": "configurable-impure-env",
		"allow-loopback-downloads": "true", "download-attempts": "2", "filetransfer-retry-delay": "1", "keep-failed": "true",
	}
	fixed := func(name, rest string) string {
		return fmt.Sprintf(`derivation { name = "%s"; outputHashMode = "flat"; outputHashAlgo = "sha256"; outputHash = builtins.hashString "sha256" "content"; %s }`, name, rest)
	}
	fetch := func(name, url string) string {
		return fixed(name, `system = "builtin"; builder = "builtin:fetchurl"; url = "`+url+`";`)
	}
	const vars = `impureEnvVars = [ "TOKEN" "http_proxy" ]; inherit system; builder = "/bin/sh";`
	exits := map[string]int{"fetched": 0, "refused": 1, "nobody": 1, "script": 0, "failing": 1}
	var drvs map[string]string
	lib, err := filepath.Abs("testdata/corpus/lib.nix")
	if err != nil {
		t.Fatal(err)
	}
	evaluate(t, scene, kiln.store, "with import "+lib+"; builtins.mapAttrs (_: d: d.drvPath) {"+
		"fetched = "+fetch("fetched", "http://"+address+"/file")+"; refused = "+fetch("refused", "http://"+address+"/other")+
		"; nobody = "+fetch("nobody", "http://127.0.0.1:1/other")+
		"; script = "+fixed("script", vars+`args = [ "-c" "test $TOKEN = `+ofToken[:6]+`\"\"`+ofToken[6:]+` || exit 5; printf content > $out" ];`)+
		"; failing = "+fixed("failing", vars+`__structuredAttrs = true; args = [ "-c" "exit 1" ];`)+"; }", &drvs)

	said := ""
	build := func(flags []string, names ...string) int {
		t.Helper()
		var targets []target
		for _, name := range names {
			targets = append(targets, target{drv: drvs[name]})
		}
		cmd := kiln.build(t, options, flags, targets...)
		cmd.Env = append(cmd.Env, "http_proxy=http://proxy:"+ofProxy+"@127.0.0.1:1", "TOKEN=other")
		o := run(t, cmd)
		said += strings.Join(o.stdout, "\n") + o.stderr
		return o.exit
	}
	all := slices.Sorted(maps.Keys(exits))
	build([]string{"--dry-run", "-vv"}, all...)
	for name, exit := range exits {
		if got := build([]string{"--json", "-vv", "-L"}, name); got != exit {
			t.Errorf("%s: exit %d, want %d:\n%s", name, got, exit, said)
		}
	}
	build([]string{"--keep-going", "--log-format", "internal-json"}, all...)
	o := run(t, kilnCommand(t, scene, kiln.store, append([]string{"derivation", "show"}, slices.Collect(maps.Values(drvs))...)...))
	said += strings.Join(o.stdout, "\n") + o.stderr
	for _, wanted := range []string{"HTTP error 401", "retrying", "the builder uses", `"isolation"`, "keeping build directory", "@nix {", "impureEnvVars"} {
		if !strings.Contains(said, wanted) {
			t.Errorf("kiln does not print %q", wanted)
		}
	}
	for _, secret := range secrets {
		for line := range strings.Lines(said) {
			if strings.Contains(line, secret) {
				t.Errorf("kiln prints %s: %s", secret, line)
			}
		}
	}
	if err := os.RemoveAll(inputs); err != nil {
		t.Fatal(err)
	}
	for _, secret := range secrets {
		for _, file := range mentioning(t, scene.Dir, secret) {
			t.Errorf("%s is in %s", secret, file)
		}
	}
}

// inBasic is what a client sends for a name and a password.
func inBasic(user, password string) string {
	return base64.StdEncoding.EncodeToString([]byte(user + ":" + password))
}
