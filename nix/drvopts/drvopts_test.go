package drvopts_test

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/aterm"
	"github.com/kilnbuild/kiln/nix/drvopts"
)

const (
	dir    = nix.DefaultStoreDir
	golden = "../../testdata/derivations/drv"

	simple = "94f9f6i31zwzwbf0kclq1naqxxi4c7v9-simple"
	drvA   = "0h1056s5ii4c1w472ryvgc0c447nz6yp-a.drv"
	srcA   = "0h1056s5ii4c1w472ryvgc0c447nz6yp-a"
	fullA  = "/nix/store/" + srcA
)

// goldenDrv reads a derivation that Nix wrote, by the end of its file's name.
func goldenDrv(t testing.TB, end string) *nix.Derivation {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(golden, "*-"+end+".drv"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no golden derivation %s: %v", end, err)
	}
	return readDrv(t, files[len(files)-1], end)
}

func readDrv(t testing.TB, file, name string) *nix.Derivation {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	d, err := aterm.Parse(dir, name, text, aterm.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func parse(t testing.TB, d *nix.Derivation) *drvopts.Options {
	t.Helper()
	o, err := drvopts.Parse(dir, d)
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func path(p nix.StorePath) drvopts.Reference    { return drvopts.Reference{Path: p} }
func output(n nix.OutputName) drvopts.Reference { return drvopts.Reference{Output: n} }

func TestParseEnv(t *testing.T) {
	d := goldenDrv(t, "options")
	want := &drvopts.Options{
		ChecksForAll: &drvopts.OutputChecks{
			IgnoreSelfReferences: true,
			AllowedReferences:    []drvopts.Reference{path(simple), output("out")},
			AllowedRequisites:    []drvopts.Reference{},
			DisallowedRequisites: []drvopts.Reference{path(goldenDrv(t, "multiple").Outputs["out"].Path)},
		},
		PassAsFile: []string{"big", "other"},
		ExportReferencesGraph: map[string][]drvopts.Reference{
			"graph":   {path(simple)},
			"graph-2": {path(d.InputSrcs[0])},
		},
		SandboxProfile:         "(allow file-read*)",
		NoChroot:               true,
		ImpureHostDeps:         []string{"/dev/kvm", "/etc/hosts"},
		ImpureEnvVars:          []string{"http_proxy", "https_proxy"},
		RequiredSystemFeatures: []string{"big-parallel", "kvm"},
		PreferLocalBuild:       true,
	}
	if diff := cmp.Diff(want, parse(t, d)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestParseStructured(t *testing.T) {
	size := uint64(1000)
	want := &drvopts.Options{
		ChecksFor: map[nix.OutputName]drvopts.OutputChecks{
			"out": {MaxSize: &size, AllowedReferences: []drvopts.Reference{path(simple), output("out")}},
		},
		UnsafeDiscardReferences: map[nix.OutputName]bool{"lib": true},
		ExportReferencesGraph:   map[string][]drvopts.Reference{},
		AllowSubstitutes:        true,
	}
	o := parse(t, goldenDrv(t, "structured"))
	if diff := cmp.Diff(want, o); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if c := o.Checks("out"); c == nil || *c.MaxSize != size {
		t.Errorf("checks of out are %+v", c)
	}
	if c := o.Checks("lib"); c != nil {
		t.Errorf("checks of lib are %+v", c)
	}
}

// withEnv is a derivation with the given variables.
func withEnv(env map[string]string) *nix.Derivation {
	return &nix.Derivation{BasicDerivation: nix.BasicDerivation{Name: "x", Env: env}}
}

func TestParseDefaults(t *testing.T) {
	for env, want := range map[string]*drvopts.Options{
		"": {
			ChecksForAll:          &drvopts.OutputChecks{IgnoreSelfReferences: true},
			ExportReferencesGraph: map[string][]drvopts.Reference{},
			AllowSubstitutes:      true,
		},
		"{}": {
			ChecksFor:               map[nix.OutputName]drvopts.OutputChecks{},
			UnsafeDiscardReferences: map[nix.OutputName]bool{},
			ExportReferencesGraph:   map[string][]drvopts.Reference{},
			AllowSubstitutes:        true,
		},
	} {
		d := withEnv(nil)
		if env != "" {
			d = withEnv(map[string]string{"__json": env})
		}
		if diff := cmp.Diff(want, parse(t, d)); diff != "" {
			t.Errorf("%q (-want +got):\n%s", env, diff)
		}
	}
}

func TestParseDetails(t *testing.T) {
	// A variable is true when it is "1" and not otherwise.
	for value, want := range map[string]bool{"1": true, "": false, "true": false, " 1": false} {
		o := parse(t, withEnv(map[string]string{"__noChroot": value, "allowSubstitutes": value, "__darwinAllowLocalNetworking": value}))
		if o.NoChroot != want || o.AllowSubstitutes != want || o.AllowLocalNetworking != want {
			t.Errorf("%q is taken for %v, %v, %v", value, o.NoChroot, o.AllowSubstitutes, o.AllowLocalNetworking)
		}
	}
	// Words are separated by ASCII white space; doubles count once.
	o := parse(t, withEnv(map[string]string{"impureEnvVars": " b\ta\r\n a\u00a0c b"}))
	if diff := cmp.Diff([]string{"a", "a\u00a0c", "b"}, o.ImpureEnvVars); diff != "" {
		t.Error(diff)
	}
	// An empty list that is there is not an absent one.
	o = parse(t, withEnv(map[string]string{"allowedReferences": " ", "disallowedReferences": ""}))
	if c := o.ChecksForAll; c.AllowedReferences == nil || c.DisallowedReferences == nil || c.AllowedRequisites != nil {
		t.Errorf("got %+v", c)
	}
	// What is below a store path is no store path here, but is there.
	o = parse(t, withEnv(map[string]string{"allowedReferences": fullA + "/x", "exportReferencesGraph": "g " + fullA + "/x"}))
	if diff := cmp.Diff([]drvopts.Reference{output(fullA + "/x")}, o.ChecksForAll.AllowedReferences); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(map[string][]drvopts.Reference{"g": {path(srcA)}}, o.ExportReferencesGraph); diff != "" {
		t.Error(diff)
	}
	// Of two graphs in one file, the last.
	o = parse(t, withEnv(map[string]string{"exportReferencesGraph": "g /nix/store/" + simple + " g " + fullA}))
	if diff := cmp.Diff(map[string][]drvopts.Reference{"g": {path(srcA)}}, o.ExportReferencesGraph); diff != "" {
		t.Error(diff)
	}
	// With structured attributes, variables say nothing, and lists may be nested.
	o = parse(t, withEnv(map[string]string{
		"__noChroot": "1", "allowedReferences": "",
		"__json": `{"exportReferencesGraph":{"any key":[["` + fullA + `"],"` + fullA + `/x",[]],"none":[],"one":"` + fullA + `"},
			"outputChecks":{"out":{"maxClosureSize":1.9,"disallowedRequisites":[]}},"__impureHostDeps":["/b","/a"]}`,
	}))
	if o.NoChroot || o.ChecksForAll != nil || *o.ChecksFor["out"].MaxClosureSize != 1 || o.ChecksFor["out"].DisallowedRequisites == nil {
		t.Errorf("got %+v", o)
	}
	want := map[string][]drvopts.Reference{"any key": {path(srcA), path(srcA)}, "none": {}, "one": {path(srcA)}}
	if diff := cmp.Diff(want, o.ExportReferencesGraph); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff([]string{"/a", "/b"}, o.ImpureHostDeps); diff != "" {
		t.Error(diff)
	}
}

func TestWarnings(t *testing.T) {
	o := parse(t, withEnv(map[string]string{"passAsFile": "x", "__json": `{"allowedReferences":1,"maxSize":"x","exportReferencesGraph":[]}`}))
	want := []string{
		"'structuredAttrs' disables the effect of the top-level attribute 'allowedReferences'; use 'outputChecks' instead",
		"'structuredAttrs' disables the effect of the top-level attribute 'maxSize'; use 'outputChecks' instead",
		"'structuredAttrs' disables the effect of the top-level attribute 'passAsFile'; because all JSON is always passed via file",
		"'exportReferencesGraph' in structured attrs is not a JSON object, ignoring",
	}
	if diff := cmp.Diff(want, o.Warnings); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if len(o.PassAsFile) > 0 {
		t.Errorf("passAsFile is %v", o.PassAsFile)
	}
}

// The texts after the derivation are those of Nix 2.34.8.
func TestParseErrors(t *testing.T) {
	for _, test := range []struct{ key, value, want string }{
		{"exportReferencesGraph", "a", "odd number of tokens in 'exportReferencesGraph': 'a'"},
		{"exportReferencesGraph", "a/b " + fullA, "invalid file name 'a/b' in 'exportReferencesGraph'"},
		{"exportReferencesGraph", "a relative", "path 'relative' is not in the Nix store"},
		{"exportReferencesGraph", "a /nix/store", "path '/nix/store' is not in the Nix store"},
		{"exportReferencesGraph", "a /nix/store/x", "path '/nix/store/x' is not in the Nix store: 'x' is not '<hash>-<name>' with a hash of 32 characters"},
		{"__json", `[]`, "cannot process __json attribute: type must be object, but is array"},
		{"__json", `{`, "cannot process __json attribute: parse JSON: byte 1: expected a key, but the text ends"},
		{"__json", `{"exportReferencesGraph":{"a":1}}`, "'exportReferencesGraph' value is not an array or a string"},
		{"__json", `{"exportReferencesGraph":{"a":["x"]}}`, "path 'x' is not in the Nix store"},
		{"__json", `{"outputChecks":1}`, "Expected JSON value to be of type 'object' but it is of type 'number': 1"},
		{"__json", `{"outputChecks":{"out":1}}`, "Expected JSON value to be of type 'object' but it is of type 'number': 1"},
		{"__json", `{"outputChecks":{"out":{"maxSize":"1"}}}`, `while parsing attribute 'outputChecks."out".maxSize': type must be number, but is string`},
		{"__json", `{"outputChecks":{"out":{"maxClosureSize":null}}}`, `while parsing attribute 'outputChecks."out".maxClosureSize': type must be number, but is null`},
		{"__json", `{"outputChecks":{"out":{"allowedReferences":"1"}}}`, `while parsing attribute 'outputChecks."out".allowedReferences': Expected JSON value to be of type 'array' but it is of type 'string': "1"`},
		{"__json", `{"outputChecks":{"out":{"disallowedRequisites":[1]}}}`, `while parsing attribute 'outputChecks."out".disallowedRequisites': Expected JSON value to be of type 'string' but it is of type 'number': 1`},
		{"__json", `{"unsafeDiscardReferences":true}`, "while parsing attribute 'unsafeDiscardReferences': Expected JSON value to be of type 'object' but it is of type 'boolean': true"},
		{"__json", `{"unsafeDiscardReferences":{"out":1}}`, "while parsing attribute 'unsafeDiscardReferences': Expected JSON value to be of type 'boolean' but it is of type 'number': 1"},
		{"__json", `{"__noChroot":1}`, `while parsing attribute "__noChroot": Expected JSON value to be of type 'boolean' but it is of type 'number': 1`},
		{"__json", `{"__sandboxProfile":1}`, `while parsing attribute "__sandboxProfile": Expected JSON value to be of type 'string' but it is of type 'number': 1`},
		{"__json", `{"requiredSystemFeatures":"kvm"}`, `while parsing attribute "requiredSystemFeatures": Expected JSON value to be of type 'array' but it is of type 'string': "kvm"`},
		{"__json", `{"allowSubstitutes":"1"}`, `while parsing attribute "allowSubstitutes": Expected JSON value to be of type 'boolean' but it is of type 'string': "1"`},
	} {
		_, err := drvopts.Parse(dir, withEnv(map[string]string{test.key: test.value}))
		if want := "parse options of derivation 'x': " + test.want; err == nil || err.Error() != want {
			t.Errorf("%s = %s: %v, want %s", test.key, test.value, err, want)
		}
	}
}

// Placeholders of inputs are understood while nothing is built yet.
func TestPlaceholders(t *testing.T) {
	built := func(drv nix.StorePath, output nix.OutputName, via ...nix.OutputName) drvopts.Reference {
		return drvopts.Reference{Input: &nix.DerivedPath{Path: drv, Via: via, Outputs: nix.OutputSpec{Names: []nix.OutputName{output}}}}
	}
	const floating = "0yk16qmbnf6l16fhjdg5qn9diyh3203j-floating.drv"
	o := parse(t, goldenDrv(t, "structured-deferred"))
	want := map[string][]drvopts.Reference{"graph": {built(floating, "out"), path(simple)}}
	if diff := cmp.Diff(want, o.ExportReferencesGraph); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}

	// Each placeholder that Nix wrote into these is one that we know.
	for name, want := range map[string]drvopts.Reference{
		"dynamic":       built("fdbn42gyr5zgjda2pcw0ym2ifnwzw5wn-producer.drv.drv", "out", "out"),
		"dynamic-twice": built("pynvnm3n2r5czldmklv6ac0az4iviwqx-producer.drv.drv", "out", "out", "out"),
	} {
		d := goldenDrv(t, name)
		placeholder := strings.Fields(d.Args[1])[1]
		d.Env["exportReferencesGraph"] = "g " + placeholder + "/below"
		d.Env["allowedReferences"] = placeholder
		o := parse(t, d)
		for _, got := range []drvopts.Reference{o.ExportReferencesGraph["g"][0], o.ChecksForAll.AllowedReferences[0]} {
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("%s in %s (-want +got):\n%s", placeholder, name, diff)
			}
		}
		// To a derivation without that input it is any text.
		d.InputDrvs = nil
		if _, err := drvopts.Parse(dir, d); err == nil || !strings.Contains(err.Error(), "is not in the Nix store") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestFeatures(t *testing.T) {
	o := &drvopts.Options{RequiredSystemFeatures: []string{"big-parallel", "kvm"}}
	for kind, want := range map[nix.OutputKind][]string{
		nix.InputAddressed: {"big-parallel", "kvm"},
		nix.Fixed:          {"big-parallel", "kvm"},
		nix.Floating:       {"big-parallel", "ca-derivations", "kvm"},
		nix.Deferred:       {"big-parallel", "ca-derivations", "kvm"},
		nix.Impure:         {"big-parallel", "ca-derivations", "kvm"},
	} {
		if diff := cmp.Diff(want, o.Features(kind)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", kind, diff)
		}
	}
}

func TestAttrFileName(t *testing.T) {
	if got, want := drvopts.AttrFileName("big"), ".attr-1lak0mvllw8rv9i9ygkglvhqsq19qi9ynl4bi7gbf69ab5nzw89a"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func mustHash(t testing.TB, s string) nix.Hash {
	t.Helper()
	h, err := nix.ParseHash(s)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// The files are those that a builder got from Nix 2.34.8.
func TestStructuredEnvGolden(t *testing.T) {
	d := readDrv(t, "testdata/structured.drv", "sa")
	attrs, _ := d.StructuredAttrs()
	outputs := make(map[nix.OutputName]string)
	for name, o := range d.Outputs {
		outputs[name] = dir.Join(o.Path)
	}
	ca, err := nix.ParseContentAddress("text:sha256:08pmazdqvi2dhkm6qgb4yi9miis6wz55ghf7zda05gb3kd7h7fxq")
	if err != nil {
		t.Fatal(err)
	}
	src := drvopts.GraphObject{
		Path: "288z71d335cqpf3bfqfs3qhfq3wpdgdp-src", CA: ca, NARSize: 120, ClosureSize: 120,
		NARHash: mustHash(t, "sha256:1fh8i0lz2kr7w0mfxsr9py36j1xc43kj3gvk529dj1qq8jxfy0sb"),
	}
	dep := drvopts.GraphObject{
		Path: "372jrnbkg8cif4hvrfrrp2gsk15f5x1x-dep", NARSize: 168, ClosureSize: 288,
		NARHash:    mustHash(t, "sha256:00a75hla3hh5xliw6d7zay21662l14sqbr6prnw3fdjj66dl6his"),
		References: []nix.StorePath{src.Path},
	}
	graphs := map[string][]drvopts.GraphObject{
		"graph":     {dep, src},
		"nested":    {src, dep},
		"not shell": {src},
	}
	got, err := drvopts.NewStructuredEnv(dir, attrs, outputs, graphs)
	if err != nil {
		t.Fatal(err)
	}
	for file, got := range map[string][]byte{"attrs.json": got.JSON, "attrs.sh": got.Shell} {
		want, err := os.ReadFile(filepath.Join("testdata", file))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(string(want), string(got)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", file, diff)
		}
	}
	want := map[string][]drvopts.Reference{
		"graph": {path(dep.Path)}, "nested": {path(src.Path), path(dep.Path)}, "not shell": {path(src.Path)},
	}
	if diff := cmp.Diff(want, parse(t, d).ExportReferencesGraph); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestStructuredEnv(t *testing.T) {
	for _, test := range []struct {
		attrs, json, shell string
	}{
		{`{}`, `{"outputs":{}}`, "declare -A outputs=()\n"},
		// What is there under the name is replaced.
		{`{"outputs":["out"],"g":1}`, `{"g":1,"outputs":{}}`, "declare g=1\ndeclare -A outputs=()\n"},
		{`{"a":"\u0000\n"}`, `{"a":"\u0000\n","outputs":{}}`, "declare a='\x00\n'\ndeclare -A outputs=()\n"},
		{`{"a":[{}],"b":{"x":[]},"c d":1,"_":1.25,"e":[1.25]}`, `{"_":1.25,"a":[{}],"b":{"x":[]},"c d":1,"e":[1.25],"outputs":{}}`, "declare -A outputs=()\n"},
	} {
		got, err := drvopts.NewStructuredEnv(dir, test.attrs, nil, nil)
		if err != nil || string(got.JSON) != test.json || string(got.Shell) != test.shell {
			t.Errorf("%s: got %s and %q, %v, want %s and %q", test.attrs, got.JSON, got.Shell, err, test.json, test.shell)
		}
	}
	for _, attrs := range []string{``, `[]`, `{"a":}`} {
		if _, err := drvopts.NewStructuredEnv(dir, attrs, nil, nil); err == nil {
			t.Errorf("%s makes files", attrs)
		}
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{`{}`, `{"outputChecks":{"out":{"maxSize":1,"allowedReferences":["out","` + fullA + `"]}}}`,
		`{"exportReferencesGraph":{"g":[["` + fullA + `"]]},"unsafeDiscardReferences":{"out":true},"n":1e30}`} {
		f.Add("__json", s)
	}
	f.Add("exportReferencesGraph", "a "+fullA+" b "+fullA+"/x")
	f.Add("allowedReferences", "out "+fullA)
	drv := goldenDrv(f, "dynamic")
	f.Fuzz(func(t *testing.T, key, value string) {
		d := withEnv(map[string]string{key: value})
		d.InputDrvs = drv.InputDrvs
		o, err := drvopts.Parse(dir, d)
		if err != nil {
			return
		}
		if (o.ChecksForAll == nil) != (key == "__json") {
			t.Errorf("%s = %s: checks for all are %v", key, strconv.Quote(value), o.ChecksForAll)
		}
		if key == "__json" {
			if _, err := drvopts.NewStructuredEnv(dir, value, nil, nil); err != nil {
				t.Errorf("%s has options, but no files: %v", strconv.Quote(value), err)
			}
		}
	})
}
