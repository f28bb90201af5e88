package drvjson_test

import (
	"bytes"
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/kilnbuild/kiln/internal/testenv"
	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/aterm"
	"github.com/kilnbuild/kiln/nix/drvjson"
	"github.com/kilnbuild/kiln/nix/jsonvalue"
)

const (
	dir    = nix.DefaultStoreDir
	golden = "../../testdata/derivations"
	drvA   = "0h1056s5ii4c1w472ryvgc0c447nz6yp-a.drv"
	srcA   = "0h1056s5ii4c1w472ryvgc0c447nz6yp-a"
)

var same = cmp.Options{cmp.AllowUnexported(nix.Hash{}), cmpopts.EquateEmpty()}

// readStore reads the derivation files of a real store.
func readStore(t testing.TB, store string) map[nix.StorePath]*nix.Derivation {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(store, "*.drv"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no derivations in %s: %v", store, err)
	}
	drvs := make(map[nix.StorePath]*nix.Derivation)
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		path, err := nix.ParseStorePath(filepath.Base(f))
		if err != nil {
			t.Fatal(err)
		}
		d, err := aterm.Parse(dir, strings.TrimSuffix(path.Name(), ".drv"), text, aterm.Limits{})
		if err != nil {
			t.Fatal(err)
		}
		drvs[path] = d
	}
	return drvs
}

func readFile(t testing.TB, name string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(golden, name))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// What current Nix prints is what we print, byte for byte.
func TestWriteGolden(t *testing.T) {
	want := bytes.TrimSpace(readFile(t, "show-2.34.json"))
	drvs := readStore(t, filepath.Join(golden, "drv"))
	shown, err := drvjson.UnmarshalShow(dir, want, jsonvalue.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	maps.DeleteFunc(drvs, func(p nix.StorePath, _ *nix.Derivation) bool { _, ok := shown[p]; return !ok })
	if len(drvs) != len(shown) || len(drvs) < 45 {
		t.Fatalf("%d derivations are shown, %d of them are there", len(shown), len(drvs))
	}
	got, err := drvjson.MarshalShow(drvs)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(indent(t, want), indent(t, got)); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if !bytes.Equal(want, got) {
		t.Error("the same is printed in another way")
	}
	if diff := cmp.Diff(drvs, shown, same); diff != "" {
		t.Errorf("read back (-want +got):\n%s", diff)
	}
}

func indent(t *testing.T, text []byte) string {
	t.Helper()
	var b bytes.Buffer
	if err := json.Indent(&b, text, "", " "); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// What older versions printed are the same derivations.
func TestReadGolden(t *testing.T) {
	drvs := readStore(t, filepath.Join(golden, "drv"))
	for name, least := range map[string]int{"show-2.8.json": 32, "show-2.26.json": 39, "show-2.34.json": 47} {
		shown, err := drvjson.UnmarshalShow(dir, readFile(t, name), jsonvalue.Limits{})
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if len(shown) < least {
			t.Errorf("%s has %d derivations, want %d", name, len(shown), least)
		}
		for path, d := range shown {
			if diff := cmp.Diff(drvs[path], d, same); diff != "" {
				t.Errorf("%s: %s (-want +got):\n%s", name, path, diff)
			}
		}
	}
}

// A derivation that went through JSON and back has the store path that it had.
func TestRoundTrip(t *testing.T) {
	for path, d := range readStore(t, filepath.Join(golden, "drv")) {
		text, err := drvjson.Marshal(d)
		if err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		back, err := drvjson.Unmarshal(dir, text, jsonvalue.Limits{})
		if err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		again, _, _, err := aterm.DerivationPath(dir, back)
		if err != nil || again != path {
			t.Errorf("%s is %s after the round trip, %v", path, again, err)
		}
	}
}

// The same with what the Nix of this machine shows and adds.
func TestRealNix(t *testing.T) {
	version := testenv.NixVersion(t)
	scene := testenv.NewScene(t, "")
	root := scene.Path("root")
	runNix(t, scene, nil, "nix-instantiate", "--store", root, filepath.Join(golden, "derivations.nix"))
	drvs := readStore(t, filepath.Join(root, "nix/store"))

	modern := !older(version, 2, 15)
	args := []string{"--store", root, "--extra-experimental-features", "nix-command", "derivation", "show"}
	if !modern {
		args = append(args[:len(args)-2], "show-derivation")
	}
	for path := range drvs {
		args = append(args, dir.Join(path))
	}
	shown, err := drvjson.UnmarshalShow(dir, runNix(t, scene, nil, "nix", args...), jsonvalue.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(drvs, shown, same); diff != "" {
		t.Errorf("Nix %s shows (-want +got):\n%s", version, diff)
	}
	if older(version, 2, 33) {
		t.Logf("Nix %s does not read version %d", version, drvjson.Version)
		return
	}
	for path, d := range drvs {
		text, err := drvjson.Marshal(d)
		if err != nil {
			t.Fatal(err)
		}
		added := runNix(t, scene, text, "nix", "--store", root, "--extra-experimental-features", "nix-command", "derivation", "add")
		if got := strings.TrimSpace(string(added)); got != dir.Join(path) {
			t.Errorf("Nix added %s as %s", path, got)
		}
	}
}

func older(version string, major, minor int) bool {
	parts := strings.Split(version, ".")
	if len(parts) < 2 {
		return false
	}
	a, _ := strconv.Atoi(parts[0])
	b, _ := strconv.Atoi(parts[1])
	return a < major || a == major && b < minor
}

// runNix runs a program of real Nix with the scene's settings.
func runNix(t *testing.T, scene *testenv.Scene, input []byte, program string, args ...string) []byte {
	t.Helper()
	var errors strings.Builder
	cmd := exec.Command(program, args...)
	cmd.Env = scene.Env()
	cmd.Stdin = bytes.NewReader(input)
	cmd.Stderr = &errors
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v\n%s", cmd, err, errors.String())
	}
	return out
}

// document is JSON of a derivation in which some members are replaced; a
// replacement that is empty removes the member.
func document(version int, replace map[string]string) string {
	members := map[string]string{
		"name": `"x"`, "system": `"s"`, "builder": `"/b"`, "args": `[]`, "env": `{}`, "outputs": `{"out":{}}`,
	}
	switch version {
	case 4:
		members["version"], members["inputs"] = "4", `{"srcs":[],"drvs":{}}`
	case 3:
		members["version"] = "3"
		fallthrough
	default:
		members["inputSrcs"], members["inputDrvs"] = `[]`, `{}`
	}
	maps.Copy(members, replace)
	var parts []string
	for _, key := range slices.Sorted(maps.Keys(members)) {
		if members[key] != "" {
			parts = append(parts, `"`+key+`":`+members[key])
		}
	}
	return "{" + strings.Join(parts, ",") + "}"
}

func TestReadVersions(t *testing.T) {
	zero, err := nix.ParseHash("sha256:" + strings.Repeat("0", 64))
	if err != nil {
		t.Fatal(err)
	}
	fixed := nix.DerivationOutput{
		Kind: nix.Fixed, Method: nix.Recursive, Algorithm: nix.SHA256, Hash: zero,
		Path: "n9diadpxkknw09xypdk7jhadc709y1h1-t6",
	}
	floating := nix.DerivationOutput{Kind: nix.Floating, Method: nix.Recursive, Algorithm: nix.SHA256}
	impure := nix.DerivationOutput{Kind: nix.Impure, Algorithm: nix.SHA512}
	byPath := nix.DerivationOutput{Kind: nix.InputAddressed, Path: srcA}
	dynamic := nix.InputOutputs{Outputs: []nix.OutputName{"a", "b"}, Dynamic: map[nix.OutputName]nix.InputOutputs{
		"out": {Outputs: []nix.OutputName{"x"}},
	}}
	const full = "/nix/store/"
	for _, test := range []struct {
		version int
		replace map[string]string
		output  nix.DerivationOutput
		input   nix.InputOutputs
	}{
		{0, map[string]string{"outputs": `{"out":{"path":"` + full + srcA + `"}}`}, byPath, nix.InputOutputs{}},
		{0, map[string]string{
			"outputs":   `{"out":{"path":"/nix/store/n9diadpxkknw09xypdk7jhadc709y1h1-t6","hashAlgo":"r:sha256","hash":"` + zero.Base16() + `"}}`,
			"inputDrvs": `{"` + full + drvA + `":["b","a","b"]}`,
		}, fixed, nix.InputOutputs{Outputs: []nix.OutputName{"a", "b"}}},
		{0, map[string]string{
			"outputs":   `{"out":{"path":"/nix/store/n9diadpxkknw09xypdk7jhadc709y1h1-t6","method":"nar","hashAlgo":"sha256","hash":"` + zero.Nix32() + `"}}`,
			"inputDrvs": `{"` + full + drvA + `":{"outputs":["a","b"],"dynamicOutputs":{"out":{"outputs":["x"],"dynamicOutputs":{}}}}}`,
		}, fixed, dynamic},
		{0, map[string]string{"outputs": `{"out":{"hashAlgo":"r:sha256"}}`}, floating, nix.InputOutputs{}},
		{0, map[string]string{"outputs": `{"out":{"hashAlgo":"sha512","impure":true}}`}, impure, nix.InputOutputs{}},
		{3, map[string]string{
			"outputs":   `{"out":{"method":"nar","hashAlgo":"sha256","hash":"` + zero.Base16() + `"}}`,
			"inputDrvs": `{"` + drvA + `":{"outputs":["a","b"],"dynamicOutputs":{"out":{"outputs":["x"],"dynamicOutputs":{}}}}}`,
		}, fixed, dynamic},
		{3, map[string]string{"outputs": `{"out":{"path":"` + srcA + `"}}`}, byPath, nix.InputOutputs{}},
		{4, map[string]string{
			"outputs": `{"out":{"method":"nar","hash":"` + zero.SRI() + `"}}`,
			"inputs":  `{"srcs":[],"drvs":{"` + drvA + `":{"outputs":["a","b"],"dynamicOutputs":{"out":{"outputs":["x"],"dynamicOutputs":{}}}}}}`,
		}, fixed, dynamic},
		{4, map[string]string{"outputs": `{"out":{"method":"nar","hashAlgo":"sha256"}}`}, floating, nix.InputOutputs{}},
		{4, map[string]string{"outputs": `{"out":{"method":"flat","hashAlgo":"sha512","impure":true}}`}, impure, nix.InputOutputs{}},
		{4, nil, nix.DerivationOutput{Kind: nix.Deferred}, nix.InputOutputs{}},
	} {
		test.replace = maps.Clone(test.replace)
		if test.replace == nil {
			test.replace = make(map[string]string)
		}
		test.replace["name"] = `"t6"`
		text := document(test.version, test.replace)
		d, err := drvjson.Unmarshal(dir, []byte(text), jsonvalue.Limits{})
		if err != nil {
			t.Errorf("%s: %v", text, err)
			continue
		}
		if got := d.Outputs["out"]; got != test.output {
			t.Errorf("%s: output is %+v, want %+v", text, got, test.output)
		}
		if diff := cmp.Diff(test.input, d.InputDrvs[drvA], same); diff != "" {
			t.Errorf("%s (-want +got):\n%s", text, diff)
		}
	}
}

func TestStructuredAttrs(t *testing.T) {
	const attrs = `{"z":1.50,"a":{"b":1,"a":"\u00e9"}}`
	for _, test := range []struct {
		version int
		replace map[string]string
		want    string
	}{
		{0, map[string]string{"env": `{"__json":` + strconv.Quote(`{ "a": 1 }`) + `}`}, `{ "a": 1 }`},
		{0, map[string]string{"structuredAttrs": attrs}, `{"a":{"a":"é","b":1},"z":1.5}`},
		{4, map[string]string{"structuredAttrs": attrs}, `{"a":{"a":"é","b":1},"z":1.5}`},
	} {
		d, err := drvjson.Unmarshal(dir, []byte(document(test.version, test.replace)), jsonvalue.Limits{})
		if err != nil {
			t.Error(err)
			continue
		}
		if got, _ := d.StructuredAttrs(); got != test.want {
			t.Errorf("got %s, want %s", got, test.want)
		}
	}
}

func TestReadErrors(t *testing.T) {
	output := func(s string) map[string]string { return map[string]string{"outputs": `{"out":` + s + `}`} }
	for _, test := range []struct {
		version int
		replace map[string]string
		want    string
	}{
		{4, map[string]string{"name": ""}, "key 'name' is missing"},
		{0, map[string]string{"name": ""}, "key 'name' is missing"},
		{4, map[string]string{"name": `"a b"`}, "name 'a b' contains illegal character"},
		{4, map[string]string{"version": "5"}, "unsupported derivation JSON format version 5"},
		{4, map[string]string{"version": "4.0"}, "unsupported derivation JSON format version 4.0"},
		{4, map[string]string{"version": `"4"`}, "key 'version': Expected JSON value to be of type 'number' but it is of type 'string': \"4\""},
		{4, map[string]string{"inputs": ""}, "key 'inputs' is missing"},
		{4, map[string]string{"inputs": `{"srcs":[]}`}, "key 'drvs' is missing"},
		{4, map[string]string{"inputs": `{"srcs":[],"drvs":{},"more":1}`}, "key 'more' is not known"},
		{4, map[string]string{"inputSrcs": "[]"}, "key 'inputSrcs' is not known"},
		{4, map[string]string{"meta": "[]"}, "key 'meta' is not known"},
		{4, map[string]string{"args": "[1]"}, "key 'args': Expected JSON value to be of type 'string' but it is of type 'number': 1"},
		{4, map[string]string{"env": `{"a":null}`}, "key 'env': Expected JSON value to be of type 'string' but it is of type 'null': null"},
		{4, map[string]string{"env": `{"__json":"{}"}`}, "Cannot have an environment variable named '__json'"},
		{0, map[string]string{"env": `{"__json":"{}"}`, "structuredAttrs": "{}"}, "Cannot have an environment variable named '__json'"},
		{4, map[string]string{"structuredAttrs": "[]"}, "key 'structuredAttrs': Expected JSON value to be of type 'object'"},
		{4, map[string]string{"outputs": `{"a/b":{}}`}, "key 'outputs': name 'a/b' contains illegal character"},
		{4, output(`{"path":"/nix/store/` + srcA + `"}`), "output 'out': '/nix/store/"},
		{0, output(`{"path":"` + srcA + `"}`), "output 'out': path '" + srcA + "' is not in the Nix store"},
		{4, output(`{"hash":"sha256-AA=="}`), `no kind of output has the keys "hash"`},
		{4, output(`{"hashAlgo":"sha256"}`), `no kind of output has the keys "hashAlgo"`},
		{4, output(`{"method":"nar","hashAlgo":"sha256","hash":""}`), `no kind of output has the keys "hash hashAlgo method"`},
		{4, output(`{"method":"nar","hash":"sha256-AA=="}`), "invalid SRI hash 'sha256-AA=='"},
		{4, output(`{"method":"nar","hash":"sha256:` + strings.Repeat("0", 64) + `"}`), "is not SRI"},
		{4, output(`{"method":"r","hashAlgo":"sha256"}`), "unknown content address method 'r'"},
		{4, output(`{"method":"nar","hashAlgo":"r:sha256"}`), "unknown hash algorithm 'r:sha256'"},
		{4, output(`{"method":"nar","hashAlgo":"sha256","impure":false}`), "'impure' must be true"},
		{0, output(`{"path":"/nix/store/` + srcA + `","hashAlgo":"sha256","hash":"` + strings.Repeat("0", 64) + `"}`), "does not match its content address"},
		{4, map[string]string{"inputs": `{"srcs":["x"],"drvs":{}}`}, "key 'srcs': 'x' is not"},
		{4, map[string]string{"inputs": `{"srcs":[],"drvs":{"` + srcA + `":["out"]}}`}, "is not a derivation"},
		{4, map[string]string{"inputs": `{"srcs":[],"drvs":{"` + drvA + `":["o/t"]}}`}, "contains illegal character"},
		{4, map[string]string{"inputs": `{"srcs":[],"drvs":{"` + drvA + `":{"outputs":[]}}}`}, "key 'dynamicOutputs' is missing"},
		{4, map[string]string{"inputs": `{"srcs":[],"drvs":{"` + drvA + `":{"outputs":[],"dynamicOutputs":{"o/t":[]}}}}`}, "contains illegal character"},
	} {
		text := document(test.version, test.replace)
		_, err := drvjson.Unmarshal(dir, []byte(text), jsonvalue.Limits{})
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %s", text, err, test.want)
		}
	}
	if _, err := drvjson.Unmarshal(dir, []byte(`{"name":"a","name":"b"}`), jsonvalue.Limits{}); err == nil ||
		!strings.Contains(err.Error(), "occurs twice") {
		t.Errorf("duplicate key: %v", err)
	}
}

func TestReadShowErrors(t *testing.T) {
	x := document(4, nil)
	for text, want := range map[string]string{
		`[]`:                                   "Expected JSON value to be of type 'object'",
		`{"derivations":{}}`:                   "key 'version' is missing",
		`{"derivations":[],"version":4}`:       "Expected JSON value to be of type 'object'",
		`{"derivations":{},"version":4,"x":1}`: "key 'x' is not known",
		`{"derivations":{"x.drv":` + x + `},"version":4}`:                                                 "'x.drv' is not",
		`{"derivations":{"` + srcA + `":` + x + `},"version":4}`:                                          "is not a derivation",
		`{"derivations":{"` + drvA + `":` + x + `},"version":4}`:                                          "derivation has name 'x' which does not match its path",
		`{"derivations":{"` + drvA + `":` + document(4, map[string]string{"name": ""}) + `},"version":4}`: "key 'name' is missing",
	} {
		if _, err := drvjson.UnmarshalShow(dir, []byte(text), jsonvalue.Limits{}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", text, err, want)
		}
	}
}

func TestWriteErrors(t *testing.T) {
	for want, change := range map[string]func(*nix.Derivation){
		"print derivation 'x' as JSON: print JSON: invalid UTF-8 byte at index 1 of a string: 0xFF":                                     func(d *nix.Derivation) { d.Env["a"] = "b\xff" },
		"print derivation 'x' as JSON: structured attributes: parse JSON: byte 1: expected a key, but the text ends":                    func(d *nix.Derivation) { d.Env["__json"] = "{" },
		"print derivation 'x' as JSON: structured attributes: Expected JSON value to be of type 'object' but it is of type 'array': []": func(d *nix.Derivation) { d.Env["__json"] = "[]" },
		"print derivation 'x' as JSON: output 'out': kind is not known":                                                                 func(d *nix.Derivation) { d.Outputs["out"] = nix.DerivationOutput{} },
	} {
		d, err := drvjson.Unmarshal(dir, []byte(document(4, nil)), jsonvalue.Limits{})
		if err != nil {
			t.Fatal(err)
		}
		change(d)
		if _, err := drvjson.Marshal(d); err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

func FuzzUnmarshal(f *testing.F) {
	for _, name := range []string{"show-2.8.json", "show-2.26.json", "show-2.34.json"} {
		var doc map[string]json.RawMessage
		if err := json.Unmarshal(readFile(f, name), &doc); err != nil {
			f.Fatal(err)
		}
		if inner, ok := doc["derivations"]; ok {
			doc = nil
			if err := json.Unmarshal(inner, &doc); err != nil {
				f.Fatal(err)
			}
		}
		for _, text := range doc {
			f.Add(string(text))
		}
	}
	f.Add(document(3, nil))
	limits := jsonvalue.Limits{Values: 5000, Depth: 30}
	f.Fuzz(func(t *testing.T, text string) {
		d, err := drvjson.Unmarshal(dir, []byte(text), limits)
		if err != nil {
			return
		}
		once, err := drvjson.Marshal(d)
		if err != nil {
			if strings.Contains(err.Error(), "structured attributes") {
				return // any text may stand in the environment of old forms
			}
			t.Fatalf("%s was read, but cannot be printed: %v", text, err)
		}
		again, err := drvjson.Unmarshal(dir, once, limits)
		if err != nil {
			t.Fatalf("%s: cannot read %s: %v", text, once, err)
		}
		delete(d.Env, nix.StructuredAttrsKey) // may have been in another form
		delete(again.Env, nix.StructuredAttrsKey)
		if diff := cmp.Diff(d, again, same); diff != "" {
			t.Fatalf("%s, printed and read again (-want +got):\n%s", text, diff)
		}
	})
}
