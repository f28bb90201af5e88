//go:build linux

package interop

import (
	"bufio"
	"hash/crc32"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/kilnbuild/kiln/internal/testenv"
)

// substituted are derivations of which a cache has the outputs, and a fixed output.
const substituted = `rec {
  dep = derivation { name = "dep"; system = "@system@"; builder = "/bin/sh"; args = [ "-c" "echo dep > $out" ]; };
  top = derivation { name = "top"; system = "@system@"; builder = "/bin/sh"; inherit dep; args = [ "-c" "echo log of top; echo $dep > $out" ]; };
  fixed = derivation { name = "fixed"; system = "@system@"; builder = "/bin/sh"; args = [ "-c" "exit 1" ];
    outputHashMode = "flat"; outputHashAlgo = "sha256"; outputHash = builtins.hashString "sha256" "content"; };
}`

// market is a signed binary cache, and stores with derivations to be realised.
type market struct {
	t                    *testing.T
	scene                *testenv.Scene
	cache                string // directory
	secret, public       string // file, text
	top, dep, out, fixed string // derivations, and the output of the first
	lane                 int
	newest               *release // of the side "nix"
}

// side is one whose store is called store.
func (m *market) side(name, store string) *side {
	m.t.Helper()
	s := newSide(m.t, name, store, m.scene, m.lane)
	if name == "nix" {
		s.release = m.newest
	}
	return s
}

func newMarket(t *testing.T) *market {
	t.Helper()
	m := &market{t: t, scene: newScene(t), lane: takeLane(t)}
	if testenv.Root() {
		m.newest = newestNix(t)
	}
	scene := m.scene
	m.cache, m.secret = scene.Path("cache"), scene.Path("secret")
	text := must(t, sceneCommand(scene, testenv.Kiln(t), "key", "generate", "test-1"))
	if err := os.WriteFile(m.secret, []byte(text[0]), 0o644); err != nil {
		t.Fatal(err)
	}
	public := sceneCommand(scene, testenv.Kiln(t), "key", "public")
	public.Stdin = strings.NewReader(text[0])
	m.public = must(t, public)[0]
	maker := m.side("kiln", "template")
	var drvs map[string]string
	evaluate(t, scene, maker.store, "builtins.mapAttrs (_: d: d.drvPath) ("+strings.ReplaceAll(substituted, "@system@", testenv.System())+")", &drvs)
	m.top, m.dep, m.fixed = drvs["top"], drvs["dep"], drvs["fixed"]
	copyStore(t, maker.store, scene.Path("made"))
	maker.store = scene.Path("made")
	m.out = must(t, maker.build(t, nil, nil, target{drv: m.top}))[0]
	must(t, kilnCommand(t, scene, maker.store, "copy", "--to", "file://"+m.cache+"?compression=zstd&secret-key="+m.secret, m.out))
	return m
}

// realise has a program realise something with substituters, in a fresh store.
func (m *market) realise(name, store string, options map[string]string, what string) (*side, outcome) {
	m.t.Helper()
	s := m.side(name, store+"-"+name)
	copyStore(m.t, m.scene.Path("template"), s.store)
	all := map[string]string{"trusted-public-keys": m.public, "download-attempts": "1"}
	maps.Copy(all, options)
	cmd := s.build(m.t, all, nil, target{drv: what})
	cmd.Env = append(cmd.Env, "XDG_CACHE_HOME="+m.scene.Path("lookups-"+store+"-"+name))
	return s, run(m.t, cmd)
}

// copyCache makes a cache like the usual one, to be spoilt.
func (m *market) copyCache(name string) string {
	m.t.Helper()
	dir := m.scene.Path(name)
	copyStore(m.t, m.cache, dir)
	return dir
}

// archives gives the files of archives in a cache.
func archives(t *testing.T, cache string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(cache, "nar", "*.nar*"))
	if err != nil || len(files) == 0 {
		t.Fatalf("there is no archive in %s: %v", cache, err)
	}
	return files
}

// TestSubstitution realises the same with the same substituters by real Nix and by
// kiln: the same exit codes, and the words that people look for in messages. With
// KILN_INTEROP_TABLE=1 there are more cases, and Nix 2.8 besides the newest.
func TestSubstitution(t *testing.T) {
	t.Parallel()
	needs(t)
	names := []string{"old"}
	if testenv.Root() {
		names = []string{"nix"}
		if wantsTable() {
			names = append(names, "old")
		}
	}
	m := newMarket(t)
	server := httptest.NewServer(http.FileServer(http.Dir(m.cache)))
	t.Cleanup(server.Close)
	broken := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, ".narinfo") {
			http.Error(w, "no", http.StatusInternalServerError)
			return
		}
		http.FileServer(http.Dir(m.cache)).ServeHTTP(w, r)
	}))
	t.Cleanup(broken.Close)

	// The first byte of the last block of a file is another one.
	corrupt := m.copyCache("corrupt")
	for _, file := range archives(t, corrupt) {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		text[len(text)-8] ^= 0xff
		if err := os.WriteFile(file, text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	gone := m.copyCache("gone")
	for _, file := range archives(t, gone) {
		if err := os.Remove(file); err != nil {
			t.Fatal(err)
		}
	}
	// A store with another directory, in which fixed outputs have other paths.
	other := "file://" + m.scene.Path("other") + "?store=/fnord/store"
	must(t, hostNix(t).command(m.scene, "nix", "--store", other, "store", "add-file", write(t, m.scene.Path("fixed"), "content")))

	const notSigned = "signed by any of the keys in 'trusted-public-keys'"
	const noKeys = "none-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY="
	for _, tt := range []struct {
		name    string
		options map[string]string
		what    string
		exit    int
		says    []string // each of them, all of these
		builds  bool
		when    string // "table": only with wantsTable; "kiln": not with real Nix, which may end by an exception
	}{
		{"file", map[string]string{"substituters": "file://" + m.cache}, m.top, 0, []string{"copying path '" + m.out + "'"}, false, "table"},
		{"http", map[string]string{"substituters": server.URL}, m.top, 0, []string{"copying path '" + m.out + "'"}, false, ""},
		{"by name", map[string]string{"substituters": server.URL}, m.out, 0, nil, false, ""},
		{"off", map[string]string{"substituters": server.URL, "substitute": "false"}, m.top, 0, nil, true, "table"},
		{"not signed", map[string]string{"substituters": "file://" + m.cache, "trusted-public-keys": noKeys}, m.top, 0, []string{m.out, notSigned}, true, ""},
		{"not signed, by name", map[string]string{"substituters": "file://" + m.cache, "trusted-public-keys": noKeys}, m.out, 1,
			[]string{notSigned}, false, ""},
		{"trusted", map[string]string{"substituters": "file://" + m.cache + "?trusted=true", "trusted-public-keys": noKeys}, m.top, 0, nil, false, "table"},
		{"nobody checks", map[string]string{"substituters": "file://" + m.cache, "trusted-public-keys": noKeys, "require-sigs": "false"}, m.top, 0, nil, false, "table"},
		{"corrupt", map[string]string{"substituters": "file://" + corrupt}, m.top, 1, []string{"some substitutes for the outputs of derivation '" + m.top + "' failed"}, false, ""},
		{"corrupt, with fallback", map[string]string{"substituters": "file://" + corrupt, "fallback": "true"}, m.top, 0, nil, true, "table"},
		{"corrupt, with another", map[string]string{"substituters": "file://" + corrupt + " file://" + m.cache}, m.top, 0, nil, false, ""},
		{"gone", map[string]string{"substituters": "file://" + gone}, m.top, 0, nil, true, ""},
		{"no answer", map[string]string{"substituters": broken.URL}, m.top, 1, []string{"500"}, false, ""},
		{"no answer, with fallback", map[string]string{"substituters": broken.URL, "fallback": "true"}, m.top, 0, nil, true, "kiln"},
		{"no cache", map[string]string{"substituters": server.URL + "/none"}, m.top, 0, []string{server.URL + "/none"}, true, "table"},
		{"other directory", map[string]string{"substituters": other, "trusted-public-keys": noKeys}, m.fixed, 0, nil, false, ""},
	} {
		if tt.when == "table" && !wantsTable() {
			continue
		}
		t.Run(tt.name, func(t *testing.T) {
			if os.Getenv("KILN_ROOT_RAN") == "1" && crc32.ChecksumIEEE([]byte(tt.name))%3 != 0 {
				t.Skip("root has just done it")
			}
			store := strings.NewReplacer(" ", "-", ",", "").Replace(tt.name)
			for _, name := range slices.Concat(names, []string{"kiln"}) {
				if tt.when == "kiln" && name != "kiln" {
					continue
				}
				s, o := m.realise(name, store, tt.options, tt.what)
				if o.exit != tt.exit {
					t.Errorf("%s: exit %d, want %d\n%s", name, o.exit, tt.exit, o.stderr)
				}
				for _, text := range tt.says {
					if !strings.Contains(o.stderr, text) {
						t.Errorf("%s does not say %q:\n%s", name, text, o.stderr)
					}
				}
				if builds := strings.Contains(o.stderr, "building '"); builds != tt.builds {
					t.Errorf("%s builds: %v\n%s", name, builds, o.stderr)
				}
				if out := s.store + m.out; tt.what != m.fixed && exists(out) != (tt.exit == 0) {
					t.Errorf("%s: the output is there: %v", name, exists(out))
				}
			}
		})
	}

	m.testDaemon(t, server.URL)
	m.testServer(t, names)

	// What real Nix has written, packed as it does by default.
	for _, name := range names {
		writer := m.side(name, "made")
		theirs := "file://" + m.scene.Path("theirs-"+name)
		must(t, writer.nix("nix", "copy", "--from", "local?root="+m.scene.Path("made"), "--to", theirs+"?secret-key="+m.secret, m.out))
		if _, o := m.realise("kiln", "theirs-"+name, map[string]string{"substituters": theirs}, m.top); o.exit != 0 || strings.Contains(o.stderr, "building '") {
			t.Errorf("from a cache of %s: exit %d\n%s", writer.release.version, o.exit, o.stderr)
		}
	}
}

// testDaemon has clients of kiln's daemon get what its substituters have, and what
// theirs have.
func (m *market) testDaemon(t *testing.T, url string) {
	for _, tt := range []struct {
		name           string
		daemon, client []string
	}{
		{"the daemon's", []string{"--option", "substituters", url, "--option", "trusted-public-keys", m.public}, nil},
		{"the client's", nil, []string{"--option", "substituters", url, "--option", "trusted-public-keys", m.public}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			scene := newScene(t)
			copyStore(t, m.scene.Path("template"), scene.Path("store"))
			s := startService(t, scene, tt.daemon...)
			plan := run(t, s.client(slices.Concat([]string{"nix-store", "--realise", "--dry-run", m.top}, tt.client)...))
			if !strings.Contains(plan.stderr, "these 2 paths will be fetched") {
				t.Errorf("dry run:\n%s", plan.stderr)
			}
			o := run(t, s.client(slices.Concat([]string{"nix-store", "--realise", m.top}, tt.client)...))
			if o.exit != 0 || strings.Join(o.stdout, "") != m.out || !strings.Contains(o.stderr, "copying path '"+m.out+"' from '"+url) || strings.Contains(o.stderr, "building '") {
				t.Errorf("exit %d, %q\n%s", o.exit, o.stdout, o.stderr)
			}
			if got := s.must("nix-store", "--query", "--references", m.out); got == "" {
				t.Error("the output has no references")
			}
			if o := run(t, s.client(slices.Concat([]string{"nix-store", "--realise", "/nix/store/00000000000000000000000000000000-none"}, tt.client)...)); o.exit != 1 ||
				!strings.Contains(o.stderr, "there is no substituter that can build it") && !strings.Contains(o.stderr, "don't know how to build") {
				t.Errorf("what nobody has: exit %d\n%s", o.exit, o.stderr)
			}
		})
	}
}

// testServer has everybody fetch from a store that kiln serves, with signatures required,
// and real Nix read the log of what was built in it.
func (m *market) testServer(t *testing.T, names []string) {
	t.Helper()
	cmd := kilnCommand(t, m.scene, m.scene.Path("made"), "cache", "serve", "--listen", "127.0.0.1:0", "--key-file", m.secret)
	said, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil {
			t.Errorf("kiln cache serve: %v", err)
		}
	}()
	line, err := bufio.NewReader(said).ReadString('\n')
	if err != nil {
		t.Fatalf("%q, %v", line, err)
	}
	url := strings.Split(line, "'")[1]
	for _, name := range append(slices.Clone(names), "kiln") {
		_, o := m.realise(name, "served", map[string]string{"substituters": url}, m.top)
		if o.exit != 0 || strings.Contains(o.stderr, "building '") || !strings.Contains(o.stderr, "copying path '"+m.out+"' from '"+url) {
			t.Errorf("%s from a store that kiln serves: exit %d\n%s", name, o.exit, o.stderr)
		}
	}
	reader := m.side(names[0], "made").nix("nix", "log", "--store", url, m.out)
	if got := strings.Join(must(t, reader), "\n"); got != "log of top" {
		t.Errorf("its log is %q", got)
	}
}
