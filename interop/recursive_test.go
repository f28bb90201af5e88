//go:build linux

package interop

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/kilnbuild/kiln/internal/testenv"
)

// A caller is a kiln whose builders have the Nix of a release, and call it.
type caller struct {
	t      *testing.T
	scene  *testenv.Scene
	kiln   *side
	series string // of that Nix
	paths  string // where it is, as sandbox-paths has it
}

// eachClient runs a test with the Nix of the machine as the client, and for root
// with the newest one too.
func eachClient(t *testing.T, test func(t *testing.T, c *caller)) {
	t.Run("machine's", func(t *testing.T) { test(t, newCaller(t, testenv.NixVersion(t), "/")) })
	t.Run(newestSeries, func(t *testing.T) {
		if !testenv.Root() {
			t.Skip("the client's release makes no difference for whom kiln runs as: root tries both")
		}
		root, err := peers[newestSeries].root()
		if err != nil {
			testenv.SkipTool(t, "no Nix %s to call: %v", newestSeries, err)
		}
		test(t, newCaller(t, newestSeries, root))
	})
}

func newCaller(t *testing.T, series, root string) *caller {
	t.Helper()
	needs(t)
	scene := newScene(t)
	c := &caller{t: t, scene: scene, kiln: newSide(t, "kiln", "store", scene, takeLane(t)), series: series, paths: "/bin/sh=@busybox@"}
	for _, name := range []string{"/usr", "/lib", "/lib64"} {
		if place := filepath.Join(root, name); exists(place) {
			c.paths += " " + name + "=" + place
		}
	}
	return c
}

// options are the settings with which builders may call Nix.
func (c *caller) options(more map[string]string) map[string]string {
	options := map[string]string{
		"sandbox-paths": c.paths, "system-features": "kiln-interop recursive-nix",
		"extra-experimental-features": "recursive-nix ca-derivations",
	}
	maps.Copy(options, more)
	return options
}

// nixText is a text as an expression of Nix's language.
func nixText(text string) string {
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`, "${", "\\${").Replace(text) + `"`
}

// outer is the expression of a derivation whose builder calls Nix. Its script has
// functions for that: make instantiates and builds an expression.
func outer(name, attributes, text string) string {
	const prelude = `
		export HOME=$TMPDIR USER=x NIX_CONF_DIR=$TMPDIR NIX_STATE_DIR=$TMPDIR/state
		make() { drv=$(nix-instantiate -E "$1") && nix-store -r $drv; }
	`
	return fmt.Sprintf(`script "%s" {
		requiredSystemFeatures = [ "recursive-nix" ]; PATH = "/usr/bin:/bin";
		NIX_CONFIG = "experimental-features = nix-command ca-derivations\nsubstituters =";
		%s } %s`, name, attributes, nixText(prelude+text))
}

// inner is the expression of a derivation that a builder asks for.
func inner(name, attributes, text string) string {
	return fmt.Sprintf(`derivation { name = "%s"; system = builtins.currentSystem; builder = "/bin/sh"; args = [ "-e" "-c" %s ]; %s }`,
		name, nixText(text), attributes)
}

func (c *caller) instantiate(expr string) string {
	c.t.Helper()
	return instantiateText(c.t, c.scene, c.kiln.store, expr)
}

func (c *caller) build(options map[string]string, flags []string, drvs ...string) outcome {
	c.t.Helper()
	return run(c.t, c.command(options, flags, drvs...))
}

func (c *caller) command(options map[string]string, flags []string, drvs ...string) *exec.Cmd {
	c.t.Helper()
	var targets []target
	for _, drv := range drvs {
		targets = append(targets, target{drv: drv})
	}
	return c.kiln.build(c.t, c.options(options), flags, targets...)
}

// clean checks that the store is whole, and that nothing else is left.
func (c *caller) clean() {
	c.t.Helper()
	verify(c.t, c.scene, c.kiln.store)
	if snap := take(c.t, c.kiln); len(snap.strays)+len(snap.state) > 0 {
		c.t.Errorf("left in the store: %s", strings.Join(append(snap.strays, snap.state...), " "))
	}
}

// content reads a store object that is a file.
func (c *caller) content(path string) string {
	c.t.Helper()
	text, err := os.ReadFile(c.kiln.store + path)
	if err != nil {
		c.t.Fatal(err)
	}
	return string(text)
}

// TestRecursiveNix lets a builder look at its inputs, reach for what is not among
// them, add an object, count what there is, and build two derivations, one of which
// is content-addressed.
func TestRecursiveNix(t *testing.T) {
	eachClient(t, func(t *testing.T, c *caller) {
		stranger := c.instantiate(`script "stranger" { } "echo x > $out"`)
		hidden := must(t, c.kiln.build(t, nil, nil, target{drv: stranger}))[0]
		floating := inner("floating", `__contentAddressed = true; outputHashMode = "recursive"; outputHashAlgo = "sha256"; before = builtins.getEnv "before";`, "echo floating is made; echo content > $out")
		drv := c.instantiate(outer("outer", `
			dep = script "dep" { } "echo dep > $out"; hidden = "`+hidden+`"; outputs = [ "out" "list" ];
			plain = `+nixText(inner("plain", `src = builtins.toFile "src" "text";`, "echo plain is made; read line < $src || true; echo $line > $out"))+`;
			floating = `+nixText(floating)+`;`, `
			nix --version
			nix-store --check-validity $dep
			test "$(nix-store -q --references $dep)" = ""
			nix-store -r $dep
			if nix-store --check-validity $hidden; then echo "an object that is no input is valid"; exit 1; fi
			if nix-store -r $hidden; then echo "an object that is no input can be had"; exit 1; fi
			if test -e $hidden; then echo "an object that is no input is there"; exit 1; fi
			before=$(nix path-info --all | wc -l)
			echo text > file
			added=$(nix-store --add file)
			test "$(cat $added)" = text
			test $(nix path-info --all | wc -l) = $((before + 1))
			one=$(make "$plain")
			test "$(cat $one)" = text
			two=$(make "$floating")
			test "$(cat $two)" = content
			echo $added $one > $out
			echo $two > $list
			nix path-info -r $one
		`))
		o := c.build(nil, []string{"-L", "--json"}, drv)
		if o.exit != 0 {
			t.Fatalf("exit %d:\n%s", o.exit, o.stderr)
		}
		for _, said := range []string{"outer> nix (Nix) " + c.series, "plain> plain is made", "floating> floating is made"} {
			if !strings.Contains(o.stderr, said) {
				t.Errorf("what builders print is not shown: %q in\n%s", said, o.stderr)
			}
		}
		var results []struct {
			Nested []struct {
				DrvPath, Status     string
				StartTime, StopTime float64
			}
		}
		if err := json.Unmarshal([]byte(strings.Join(o.stdout, "\n")), &results); err != nil {
			t.Fatal(err)
		}
		if nested := results[0].Nested; len(nested) != 2 || !strings.HasSuffix(nested[0].DrvPath, "-plain.drv") || !strings.HasSuffix(nested[1].DrvPath, "-floating.drv") ||
			nested[0].Status != "Built" || nested[0].StartTime == 0 || nested[1].StartTime < nested[0].StartTime {
			t.Errorf("the result has the nested builds %+v", nested)
		}
		for _, output := range derivationOutputs(t, c.kiln.store+drv) {
			want := strings.Fields(c.content(output))
			slices.Sort(want)
			got := slices.Sorted(slices.Values(pathInfos(t, c.scene, c.kiln.store)[output].References))
			if !slices.Equal(want, got) {
				t.Errorf("%s refers to %v, want %v", output, got, want)
			}
		}
		c.clean()
	})
}

// TestRecursiveTable has a real client send every operation that its commands can
// send, about what exists for the builder and about what does not.
func TestRecursiveTable(t *testing.T) {
	eachClient(t, func(t *testing.T, c *caller) {
		stranger := c.instantiate(`script "stranger" { } "echo x > $out"`)
		hidden := must(t, c.kiln.build(t, nil, nil, target{drv: stranger}))[0]
		drv := c.instantiate(outer("outer", `
			dep = script "dep" { } "echo dep > $out"; hidden = "`+hidden+`"; stranger = "`+stranger+`";
			plain = `+nixText(inner("plain", "", "echo the plain one; echo x > $out"))+`;
			other = `+nixText(inner("other", "", "echo x > $out"))+`;`, `
			fail() { echo "FAIL: $*"; failed=1; cat said; }
			ok() { if "$@" > said 2>&1; then echo "ok: $*"; else fail "refused: $*"; fi; }
			no() { want=$1; shift; if "$@" > said 2>&1; then fail "allowed: $*"; elif grep -q "$want" said; then echo "no: $*"; else fail "not in these words: $*"; fi; }
			# says: it is allowed, and this is all that it prints
			says() { want=$1; shift; ok "$@"; test "$(cat said)" = "$want" || fail "other words: $*"; }
			echo text > file
			added=$(nix-store --add file); a=$(nix-instantiate -E "$plain"); b=$(nix-instantiate -E "$other")

			ok nix-store --check-validity $dep
			no "" nix-store --check-validity $hidden
			says "" nix-store -q --references $dep
			says unknown-deriver nix-store -q --deriver $dep
			says "" nix-store -q --referrers $added
			no "" nix-store -q --references $hidden
			no "" nix path-info $hidden
			ok nix path-info --json $dep
			if grep -qE '"(deriver|registrationTime)":("/|[1-9])|"signatures":.".|"ultimate":true' said; then fail "information is not censored"; fi
			ok nix path-info --all
			grep -q $added said || fail "$added is not among all"
			if grep -q $hidden said; then fail "$hidden is among all"; fi
			ok nix-store -q --outputs $a
			no "in recursive Nix" nix-store -q --outputs $stranger
			ok nix-store --add-fixed sha256 file
			ok nix-store --add-fixed --recursive sha1 file
			ok nix store add-path file
			ok nix store dump-path $added
			no "" nix store dump-path $hidden
			ok nix-store --export $added
			no "" nix-store --export $hidden
			ok nix-instantiate --eval --read-write-mode -E "builtins.storePath \"$added\""
			no "in recursive Nix" nix-instantiate --eval --read-write-mode -E "builtins.storePath \"$hidden\""
			ok nix-store -r --dry-run $a $b
			grep -q will.be.built said || fail "nothing would be built"
			ok nix-store -r --dry-run $hidden
			ok nix-store -r $a
			no "in recursive Nix because path is unknown" nix-store -r $hidden
			no "in recursive Nix because path is unknown" nix-store -r $stranger
			no "unsupported build mode" nix-store -r --check $a
			no "" nix-store --repair-path $added
			no "" nix-store --verify
			no "" nix-store --optimise
			no "" nix-store -l $a
			ok nix-store --dump-db
			if grep -q $hidden said; then fail "$hidden is dumped"; fi
			no "" nix-store --load-db
			nix-store --generate-binary-cache-key test key public
			no "" nix store sign -k key $added
			# Collecting does nothing, or is refused.
			nix-store --gc > said 2>&1 || true
			nix-store --delete $added > said 2>&1 || true
			ok nix-store --check-validity $added $dep
			test -e $added || fail "$added was deleted"
			# What builders do every day: a link to what they built.
			ok nix-build -o link -E "$other"
			ok test -e link
			ok nix-store -r --add-root link2 --indirect $a
			test -z "$failed"
			echo x > $out
		`))
		o := c.build(nil, []string{"-L"}, drv)
		if o.exit != 0 {
			t.Fatalf("exit %d:\n%s", o.exit, o.stderr)
		}
		c.clean()
	})
}

// TestRecursiveSideBySide lets three builders have trees of derivations built, four
// levels deep, which share some: all must come to an end, with one slot and with
// several, and everything must be built once.
func TestRecursiveSideBySide(t *testing.T) {
	numbers := []string{"1", "4"}
	if os.Getenv("KILN_ORDINARY_FOLLOWS") == "1" {
		numbers = numbers[1:] // an ordinary user tries both
	}
	for _, jobs := range numbers {
		t.Run("max-jobs "+jobs, func(t *testing.T) {
			c := newCaller(t, testenv.NixVersion(t), "/")
			shared := c.share("recursive.nix")
			log := emptyLog(t, shared)
			var trees []string
			evaluate(t, c.scene, c.kiln.store, fmt.Sprintf(`map (who: ((import %s/recursive.nix).tree who 4).drvPath) [ "a" "b" "c" ]`, shared), &trees)
			// A builder that waits keeps its user: the group has fewer than all of them need.
			o := c.build(map[string]string{"max-jobs": jobs, "sandbox-paths": c.paths + " /shared=@shared@"}, []string{"--json"}, trees...)
			if o.exit != 0 {
				t.Fatalf("exit %d:\n%s", o.exit, o.stderr)
			}
			builtOnce(t, log)
			text, err := os.ReadFile(log)
			if err != nil {
				t.Fatal(err)
			}
			// 3 trees of 4 levels, each with 6 leaves of its own; 6 that all want.
			if got, want := strings.Count(string(text), "start "), 3*4*(1+6)+4*6; got != want {
				t.Errorf("%d builders started, want %d", got, want)
			}
			c.clean()
		})
	}
}

// TestRecursiveUnsandboxed has builders call Nix that are not isolated: as members of
// a group of build users, as ids that belong to nobody, and as kiln itself.
func TestRecursiveUnsandboxed(t *testing.T) {
	needs(t)
	scene := newPlainScene(t)
	kiln := newSide(t, "kiln", "store", scene, takeLane(t))
	for i, group := range slices.Compact([]string{kiln.group, ""}) {
		t.Run("group "+group, func(t *testing.T) {
			place := scene.Mkdir(fmt.Sprint("unmoved", i))
			store := "local?store=" + place + "/store&state=" + place + "/state&log=" + place + "/log"
			drv := instantiateText(t, scene, store, outer("outer",
				"inner = "+nixText(inner("inner", `__contentAddressed = true; outputHashMode = "recursive"; outputHashAlgo = "sha256";`, "echo built inside > $out"))+";", `
				built=$(make "$inner")
				read line < $built
				echo "$line" $built > $out
			`))
			c := &caller{t: t, scene: scene, kiln: kiln}
			words := append([]string{testenv.Kiln(t), "build", "--json", "--store", store},
				kiln.options(t, c.options(map[string]string{"sandbox": "false", "build-users-group": group, "sandbox-paths": ""}))...)
			o := run(t, kiln.command(append(words, drv)...))
			if text := strings.Join(o.stdout, "\n"); o.exit != 0 || strings.Count(text, `"level": "none"`) != 2 {
				t.Fatalf("exit %d, isolation %s\n%s", o.exit, text, o.stderr)
			}
			made := must(t, kilnCommand(t, scene, store, "build", "--option", "extra-experimental-features", "recursive-nix ca-derivations", drv))
			text, err := os.ReadFile(made[0])
			if err != nil || !strings.HasPrefix(string(text), "built inside ") {
				t.Errorf("it made %q, %v", text, err)
			}
			verify(t, scene, store)
		})
	}
}

// share puts files of testdata where builders see them, below /shared.
func (c *caller) share(names ...string) string {
	c.t.Helper()
	shared := c.scene.Mkdir("shared")
	if err := os.Chmod(shared, 0o777); err != nil {
		c.t.Fatal(err)
	}
	for _, name := range names {
		text, err := os.ReadFile(filepath.Join("testdata", name))
		if err == nil {
			err = os.WriteFile(filepath.Join(shared, name), text, 0o644)
		}
		if err != nil {
			c.t.Fatal(err)
		}
	}
	return shared
}

// TestT24NestedFetches has a builder ask for derivations that fetch, in each mode of
// the setting for that. Whatever comes of it is in the log of the outer build, and
// the builder is not told.
func TestT24NestedFetches(t *testing.T) {
	const secret = "secretOfTheNetwork"
	var asked atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		if r.URL.Path == "/file" {
			fmt.Fprint(w, "content")
			return
		}
		http.Error(w, secret, http.StatusNotFound)
	}))
	defer server.Close()
	fetch := func(name string) string {
		return `derivation { name = "` + name + `"; system = "builtin"; builder = "builtin:fetchurl"; url = "` + server.URL + "/" + name + `";
			outputHashMode = "flat"; outputHashAlgo = "sha256"; outputHash = builtins.hashString "sha256" "content"; }`
	}
	for _, test := range []struct {
		mode, name string
		flags      []string
		exit       int
		asked      bool
		says       string // in the log
	}{
		{"offline", "file", nil, 0, false, "unable to download"},
		{"offline", "none", []string{"-L"}, 0, false, "unable to download"},
		{"refuse", "file", nil, 0, false, "the setting 'recursive-nix-fixed-output' is 'refuse'"},
		{"allow", "file", nil, 0, true, ""},
		{"allow", "none", nil, 100, true, "HTTP error 404"},
		{"allow", "none", []string{"-L"}, 100, true, "HTTP error 404"},
	} {
		t.Run(strings.Join(append([]string{test.mode, test.name}, test.flags...), " "), func(t *testing.T) {
			c := newCaller(t, testenv.NixVersion(t), "/")
			drv := c.instantiate(outer("outer", "fetch = "+nixText(fetch(test.name))+";", `
				if make "$fetch" > told 2>&1; then echo "it came"; else echo "it did not come"; fi
				while read line; do echo "told: $line"; done < told
				sleep 1
				cp told $out
			`))
			asked.Store(0)
			o := c.build(map[string]string{"recursive-nix-fixed-output": test.mode, "allow-loopback-downloads": "true", "download-attempts": "1"}, test.flags, drv)
			if (o.exit != 0) != (test.exit != 0) {
				t.Errorf("exit %d, want %d", o.exit, test.exit)
			}
			if got := asked.Load() > 0; got != test.asked {
				t.Errorf("the server was asked: %v, want %v", got, test.asked)
			}
			log := strings.Join(must(t, kilnCommand(t, c.scene, c.kiln.store, "log", drv)), "\n")
			if came := strings.Contains(log, "it came"); came != (test.mode == "allow" && test.name == "file") {
				t.Errorf("it came: %v", came)
			}
			if !strings.Contains(log, test.says) {
				t.Errorf("the log of the outer build does not have %q:\n%s", test.says, log)
			}
			for line := range strings.Lines(log) {
				if strings.HasPrefix(line, "told: ") && (strings.Contains(line, secret) || test.says != "" && strings.Contains(line, test.says)) {
					t.Errorf("the builder was told: %s", line)
				}
			}
			if t.Failed() {
				t.Log(o.stderr)
			}
			c.clean()
		})
	}
}
