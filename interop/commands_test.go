//go:build linux

package interop

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/kilnbuild/kiln/internal/testenv"
)

// instantiateText puts the derivation of a Nix expression into a store. The
// expression may use what the corpus has in its lib.nix.
func instantiateText(t *testing.T, scene *testenv.Scene, store, expr string) string {
	t.Helper()
	lib, err := filepath.Abs("testdata/corpus/lib.nix")
	if err != nil {
		t.Fatal(err)
	}
	var drv string
	evaluate(t, scene, store, "with import "+lib+"; ("+expr+").drvPath", &drv)
	return drv
}

// kilnCommand is a command of kiln on a store.
func kilnCommand(t *testing.T, scene *testenv.Scene, store string, words ...string) *exec.Cmd {
	t.Helper()
	return sceneCommand(scene, append([]string{testenv.Kiln(t), "--store", store}, words...)...)
}

// TestLogsBothWays reads logs with the other program than wrote them.
func TestLogsBothWays(t *testing.T) {
	needs(t)
	scene := newScene(t)
	lane := takeLane(t)
	want := []string{"a line", "another on standard error"}
	for _, name := range []string{"nix", "kiln"} {
		s := newSide(t, name, name+"-store", scene, lane)
		drv := instantiateText(t, scene, s.store, `script "logged" { } "echo a line; echo another on standard error >&2; echo x > $out"`)
		must(t, s.build(t, nil, nil, target{drv: drv}))
		for reader, cmd := range map[string]*exec.Cmd{
			"nix-store --read-log":  sceneCommand(scene, "nix-store", "--store", s.store, "--read-log", drv),
			"kiln log":              kilnCommand(t, scene, s.store, "log", drv),
			"kiln log of an output": kilnCommand(t, scene, s.store, "log", derivationOutputs(t, s.store+drv)[0]),
		} {
			if d := cmp.Diff(want, must(t, cmd)); d != "" {
				t.Errorf("%s of %s's log (-want +got):\n%s", reader, name, d)
			}
		}
	}
}

// sampleTree makes a tree with every kind of file that a store takes.
func sampleTree(t *testing.T, scene *testenv.Scene) string {
	t.Helper()
	tree := scene.Mkdir("tree")
	scene.Mkdir("tree", "empty")
	for name, text := range map[string]string{"file": "content\n", "none": "", "odd \n name": "x", "long": strings.Repeat("0123456789", 100_000)} {
		if err := os.WriteFile(filepath.Join(tree, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(tree, "tool"), []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("no/where", filepath.Join(tree, "link")); err != nil {
		t.Fatal(err)
	}
	return tree
}

// TestArchivesBothWays packs and unpacks trees with both programs.
func TestArchivesBothWays(t *testing.T) {
	needs(t)
	scene := newScene(t)
	tree := sampleTree(t, scene)
	nix, err := sceneCommand(scene, "nix-store", "--dump", tree).Output()
	if err != nil {
		t.Fatal(err)
	}
	store := scene.Path("store")
	kiln, err := kilnCommand(t, scene, store, "store", "dump", tree).Output()
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(nix, kiln) {
		t.Error("kiln's archive of a tree is not Nix's")
	}
	restore := kilnCommand(t, scene, store, "store", "restore", scene.Path("restored"))
	restore.Stdin = bytes.NewReader(nix)
	must(t, restore)
	if again, err := sceneCommand(scene, "nix-store", "--dump", scene.Path("restored")).Output(); err != nil || !bytes.Equal(nix, again) {
		t.Errorf("what kiln unpacked is another tree (%v)", err)
	}
}

// TestAddBothWays adds the same tree to two stores.
func TestAddBothWays(t *testing.T) {
	needs(t)
	scene := newScene(t)
	tree := sampleTree(t, scene)
	nix, kiln := scene.Path("nix-store"), scene.Path("kiln-store")
	// A store that real Nix made, and one that kiln has to make.
	must(t, sceneCommand(scene, "nix-store", "--store", nix, "--init"))
	for _, c := range []struct{ nix, kiln []string }{
		{[]string{"--add", tree}, []string{tree}},
		{[]string{"--add-fixed", "sha256", filepath.Join(tree, "file")}, []string{"--mode", "flat", filepath.Join(tree, "file")}},
		{[]string{"--add-fixed", "--recursive", "sha1", tree}, []string{"--hash-algo", "sha1", tree}},
		{[]string{"--add-fixed", "md5", filepath.Join(tree, "long")}, []string{"--mode", "flat", "--hash-algo", "md5", filepath.Join(tree, "long")}},
	} {
		want := must(t, sceneCommand(scene, append([]string{"nix-store", "--store", nix}, c.nix...)...))
		got := must(t, kilnCommand(t, scene, kiln, append([]string{"store", "add"}, c.kiln...)...))
		if d := cmp.Diff(want, got); d != "" {
			t.Errorf("%v (-nix +kiln):\n%s", c.kiln, d)
		}
	}
	if d := cmp.Diff(pathInfos(t, scene, nix), pathInfos(t, scene, kiln)); d != "" {
		t.Errorf("path infos (-nix +kiln):\n%s", d)
	}
	verify(t, scene, kiln)
	must(t, kilnCommand(t, scene, nix, "store", "verify", "--check-contents"))
	must(t, kilnCommand(t, scene, kiln, "store", "verify", "--check-contents"))
}

// TestDerivationsBothWays shows derivations as JSON, adds the JSON to an empty
// store, and lets real Nix build what it finds there.
func TestDerivationsBothWays(t *testing.T) {
	needs(t)
	scene := newScene(t)
	lane := takeLane(t)
	nix := newSide(t, "nix", "added", scene, lane)
	for name, expr := range map[string]string{
		"plain":      `script "plain" { a = "b\n\"\\"; } "echo x > $out"`,
		"outputs":    `script "outputs" { outputs = [ "out" "dev" ]; } "echo x > $out; echo y > $dev"`,
		"fixed":      `fixed "fixed" "recursive" "sha1" "da39a3ee5e6b4b0d3255bfef95601890afd80709" "echo x > $out"`,
		"structured": `script "structured" { __structuredAttrs = true; list = [ 1 2.5 { x = null; } ]; } "echo x"`,
	} {
		from := scene.Path("from-" + name)
		drv := instantiateText(t, scene, from, expr)
		out := must(t, kilnCommand(t, scene, from, "derivation", "show", drv))
		var shown struct {
			Derivations map[string]json.RawMessage `json:"derivations"`
		}
		if err := json.Unmarshal([]byte(strings.Join(out, "\n")), &shown); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if len(shown.Derivations) != 1 {
			t.Fatalf("%s: %d derivations are shown", name, len(shown.Derivations))
		}
		for _, text := range shown.Derivations {
			add := kilnCommand(t, scene, nix.store, "derivation", "add")
			add.Stdin = bytes.NewReader(text)
			if d := cmp.Diff([]string{drv}, must(t, add)); d != "" {
				t.Errorf("%s (-shown +added):\n%s", name, d)
			}
		}
		original, err := os.ReadFile(from + drv)
		if err != nil {
			t.Fatal(err)
		}
		if added, err := os.ReadFile(nix.store + drv); err != nil || !bytes.Equal(original, added) {
			t.Errorf("%s: the added derivation is another (%v)", name, err)
		}
		if name == "outputs" {
			must(t, nix.build(t, nil, nil, target{drv: drv}))
		}
	}
	verify(t, scene, nix.store)
}

// TestVerifyFindsDamage damages a path in each way that verification is for.
func TestVerifyFindsDamage(t *testing.T) {
	needs(t)
	scene := newScene(t)
	tree := sampleTree(t, scene)
	store := scene.Path("store")
	added := must(t, kilnCommand(t, scene, store, "store", "add", tree))[0]
	must(t, kilnCommand(t, scene, store, "store", "verify", "--check-contents"))

	file := filepath.Join(store+added, "file")
	if err := os.Chmod(file, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte("other\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	o := run(t, kilnCommand(t, scene, store, "store", "verify", "--check-contents"))
	if o.exit != 1 || !strings.Contains(o.stderr, added) {
		t.Errorf("changed content: exit %d:\n%s", o.exit, o.stderr)
	}
	must(t, kilnCommand(t, scene, store, "store", "verify"))

	if err := os.Rename(store+added, scene.Path("gone")); err != nil && !testenv.Root() {
		// A directory without write permission cannot be moved by its owner.
		if err := os.Chmod(store+added, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(store+added, scene.Path("gone")); err != nil {
			t.Fatal(err)
		}
	} else if err != nil {
		t.Fatal(err)
	}
	o = run(t, kilnCommand(t, scene, store, "store", "verify"))
	if o.exit != 1 || !strings.Contains(o.stderr, added) {
		t.Errorf("missing path: exit %d:\n%s", o.exit, o.stderr)
	}
}

var keptLine = regexp.MustCompile(`keeping build directory "([^"]+)"`)

// TestKeepFailed wants the build directory of a failed build, and of no other.
func TestKeepFailed(t *testing.T) {
	needs(t)
	scene := newScene(t)
	kiln := newSide(t, "kiln", "store", scene, takeLane(t))
	fails := instantiateText(t, scene, kiln.store, `script "fails" { } "echo what was made > evidence; exit 1"`)
	works := instantiateText(t, scene, kiln.store, `script "works" { } "echo x > evidence; echo x > $out"`)
	if o := run(t, kiln.build(t, nil, []string{"--keep-failed"}, target{drv: works})); o.exit != 0 || keptLine.MatchString(o.stderr) {
		t.Errorf("a build that works: exit %d:\n%s", o.exit, o.stderr)
	}
	o := run(t, kiln.build(t, nil, []string{"--keep-failed"}, target{drv: fails}))
	if o.exit != 100 {
		t.Errorf("exit %d, want 100", o.exit)
	}
	kept := keptLine.FindStringSubmatch(o.stderr)
	if kept == nil {
		t.Fatalf("kiln does not say what it keeps:\n%s", o.stderr)
	}
	defer os.RemoveAll(kept[1])
	found := ""
	filepath.WalkDir(kept[1], func(path string, d os.DirEntry, err error) error {
		if d != nil && d.Name() == "evidence" {
			found = path
		}
		return nil
	})
	if text, err := os.ReadFile(found); err != nil || string(text) != "what was made\n" {
		t.Errorf("in %s: %q, %v", kept[1], text, err)
	}
}

var keptSandbox = regexp.MustCompile(`run: kiln enter ([a-z0-9]+)`)

// TestKeepSandbox enters the sandbox of a build that has failed, as it has left it.
func TestKeepSandbox(t *testing.T) {
	needs(t)
	scene := newScene(t)
	kiln := newSide(t, "kiln", "store", scene, takeLane(t))
	drv := instantiateText(t, scene, kiln.store, `script "fails" { input = script "input" { } "echo from the input > $out"; colour = "green"; } "id -u > evidence; mkdir $out; echo half > $out/part; exit 1"`)
	o := run(t, kiln.build(t, nil, []string{"--keep-sandbox"}, target{drv: drv}))
	kept := keptSandbox.FindStringSubmatch(o.stderr)
	if o.exit != 100 || kept == nil || !strings.Contains(o.stderr, "`kiln enter "+kept[1]+"`") {
		t.Fatalf("exit %d, and how to enter is not told:\n%s", o.exit, o.stderr)
	}
	enter := func(words ...string) outcome {
		t.Helper()
		return run(t, kilnCommand(t, scene, kiln.store, slices.Concat([]string{"enter"}, kiln.options(t, nil), words)...))
	}
	list := enter("--list")
	fields := strings.Fields(strings.Join(list.stdout, " "))
	if len(fields) != 8 || fields[4] != kept[1] || fields[6] != drv {
		t.Fatalf("the list is %q\n%s", list.stdout, list.stderr)
	}
	const look = `pwd; test "$(id -u)" = "$(cat evidence)" && echo the same; echo $colour; cat $input $out/part; ls /nix/store; exit 3`
	for _, name := range []string{kept[1], fields[7]} {
		o := enter(name, "--", "sh", "-c", look)
		text := strings.Join(o.stdout, "\n")
		if o.exit != 3 || !strings.HasPrefix(text, "/build\nthe same\ngreen\nfrom the input\nhalf\n") || strings.Contains(text, ".drv") {
			t.Errorf("enter %s: exit %d\n%s\n%s", name, o.exit, text, o.stderr)
		}
	}
	must(t, kilnCommand(t, scene, kiln.store, "gc"))
	if o := enter(kept[1]); o.exit != 1 || !strings.Contains(o.stderr, "is not in the store any more") {
		t.Errorf("without its input: exit %d\n%s", o.exit, o.stderr)
	}
	if o := enter("--discard", kept[1]); o.exit != 0 {
		t.Errorf("discard: exit %d\n%s", o.exit, o.stderr)
	}
	if _, err := os.Lstat(fields[7]); err == nil {
		t.Errorf("%s is left", fields[7])
	}
	if o := enter(kept[1]); o.exit != 1 || !strings.Contains(o.stderr, "is kept") {
		t.Errorf("what was discarded: exit %d\n%s", o.exit, o.stderr)
	}
}

// TestDryRun wants a plan and nothing done.
func TestDryRun(t *testing.T) {
	needs(t)
	scene := newScene(t)
	kiln := newSide(t, "kiln", "store", scene, takeLane(t))
	drv := instantiateText(t, scene, kiln.store, `script "planned" { input = script "input" { } "echo x > $out"; } "cat $input > $out"`)
	before := take(t, kiln)
	o := run(t, kiln.build(t, nil, []string{"--dry-run"}, target{drv: drv}))
	if o.exit != 0 || !strings.Contains(o.stderr, drv) || !strings.Contains(o.stderr, "-input.drv") {
		t.Errorf("exit %d:\n%s", o.exit, o.stderr)
	}
	if d := cmp.Diff(before, take(t, kiln), cmp.AllowUnexported(snapshot{})); d != "" {
		t.Errorf("a dry run changed the store:\n%s", d)
	}
}

// TestIsolationReport wants a full sandbox, and every layer of it in the report.
func TestIsolationReport(t *testing.T) {
	needs(t)
	scene := newScene(t)
	kiln := newSide(t, "kiln", "store", scene, takeLane(t))
	drv := instantiateText(t, scene, kiln.store, `script "isolated" { } "echo x > $out"`)
	out := must(t, kiln.build(t, nil, []string{"--json"}, target{drv: drv}))
	var results []struct {
		DrvPath   string
		Outputs   map[string]string
		Status    string
		Isolation struct {
			Level  string
			Layers []struct{ Name, Asked, InForce, Why string }
		}
	}
	if err := json.Unmarshal([]byte(strings.Join(out, "\n")), &results); err != nil {
		t.Fatal(err)
	}
	if len(results) != 1 || results[0].DrvPath != drv || results[0].Status != "Built" || results[0].Outputs["out"] == "" {
		t.Fatalf("results %+v", results)
	}
	report := results[0].Isolation
	if report.Level != "full" {
		t.Errorf("the isolation is %q", report.Level)
	}
	text := strings.ToLower(strings.Join(out, "\n"))
	for _, layer := range []string{"mount", "pid", "ipc", "uts", "network", "user", "seccomp", "landlock", "cgroup"} {
		if !strings.Contains(text, layer) {
			t.Errorf("the report has nothing about %s: %+v", layer, report.Layers)
		}
	}
}

// TestBadDerivationFiles gives kiln files that are no derivations.
func TestBadDerivationFiles(t *testing.T) {
	needs(t)
	scene := newScene(t)
	kiln := newSide(t, "kiln", "store", scene, takeLane(t))
	drv := instantiateText(t, scene, kiln.store, `script "good" { a = "1"; } "echo x > $out"`)
	text, err := os.ReadFile(kiln.store + drv)
	if err != nil {
		t.Fatal(err)
	}
	before := take(t, kiln)
	for name, bad := range map[string]string{
		"truncated.drv":        string(text[:len(text)/2]),
		"empty.drv":            "",
		"trailing.drv":         string(text) + "x",
		"double-key.drv":       strings.Replace(string(text), `("a","1"),`, `("a","1"),("a","2"),`, 1),
		filepath.Base(drv):     strings.Replace(string(text), `("a","1")`, `("a","2")`, 1),
		"wrong-output.drv":     strings.Replace(string(text), `("a","1")`, `("a","2")`, 1),
		"not-json.json":        "{",
		"double-key.json":      `{"name":"x","name":"y"}`,
		"of-another-store.drv": strings.ReplaceAll(string(text), "/nix/store", "/gnu/store"),
	} {
		file := scene.Path(name)
		if err := os.WriteFile(file, []byte(bad), 0o644); err != nil {
			t.Fatal(err)
		}
		o := run(t, kiln.build(t, nil, nil, target{drv: file}))
		if o.exit != 1 || !strings.Contains(o.stderr, name) {
			t.Errorf("%s: exit %d:\n%s", name, o.exit, o.stderr)
		}
	}
	if d := cmp.Diff(before, take(t, kiln), cmp.AllowUnexported(snapshot{})); d != "" {
		t.Errorf("bad derivations changed the store:\n%s", d)
	}
}

// TestRepair damages an output, a text that cannot be built, and removes another output:
// `kiln store verify` names each, builds again what it can, and says what it could not.
// Then it keeps logs for as long as it is told to.
func TestRepair(t *testing.T) {
	needs(t)
	scene := newScene(t)
	kiln := newSide(t, "kiln", "store", scene, takeLane(t))
	drv := instantiateText(t, scene, kiln.store, `script "two" { outputs = [ "out" "extra" ]; } "echo building; echo first > $out; echo second > $extra"`)
	must(t, kiln.build(t, nil, nil, target{drv: drv}))
	outputs := derivationOutputs(t, kiln.store+drv)
	text := must(t, kilnCommand(t, scene, kiln.store, "store", "add", write(t, scene.Path("text"), "a text")))[0]
	verify := func(exit int, flags []string, want ...string) {
		t.Helper()
		words := append([]string{"store", "verify", "--check-contents"}, append(flags, kiln.options(t, nil)...)...)
		o := run(t, kilnCommand(t, scene, kiln.store, words...))
		if o.exit != exit {
			t.Errorf("%v: exit %d, want %d\n%s", flags, o.exit, exit, o.stderr)
		}
		for _, part := range want {
			if !strings.Contains(o.stderr, part) {
				t.Errorf("%v: '%s' is not in\n%s", flags, part, o.stderr)
			}
		}
	}
	verify(0, nil)
	damage(t, kiln.store+text)
	damage(t, kiln.store+outputs[0])
	if err := os.Remove(kiln.store + outputs[1]); err != nil {
		t.Fatal(err)
	}
	wrong := []string{"'" + outputs[0] + "' was modified", "'" + outputs[1] + "' disappeared", "'" + text + "' was modified"}
	verify(1, nil, append(wrong, "3 problems")...)
	verify(1, []string{"--repair"}, "repairing '"+outputs[0]+"'", "'"+text+"' was modified", "copy it from elsewhere", "1 problems")
	verify(1, nil, "'"+text+"' was modified", "1 problems")
	must(t, kilnCommand(t, scene, kiln.store, "gc", text))
	verify(0, nil)

	log := func() int { return run(t, kilnCommand(t, scene, kiln.store, "log", drv)).exit }
	gc := func(want string, words ...string) {
		t.Helper()
		if got := must(t, kilnCommand(t, scene, kiln.store, append([]string{"--quiet", "gc", "--max-freed", "0"}, words...)...)); got[0] != want {
			t.Errorf("gc %v: %q, want %q", words, got, want)
		}
	}
	gc("0 build logs deleted, 0.00 MiB freed", "--logs-older-than", "1d")
	if log() != 0 {
		t.Error("a new log has gone")
	}
	gc("1 build logs deleted, 0.00 MiB freed", "--logs-older-than", "0d")
	if log() == 0 {
		t.Error("an old log is there")
	}
}

// damage changes a byte of a store object.
func damage(t *testing.T, path string) {
	t.Helper()
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteAt([]byte("X"), 3)
	}
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
}
