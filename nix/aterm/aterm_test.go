package aterm_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/aterm"
)

const (
	drvA    = "/nix/store/0h1056s5ii4c1w472ryvgc0c447nz6yp-a.drv"
	drvB    = "/nix/store/1h1056s5ii4c1w472ryvgc0c447nz6yp-b.drv"
	srcA    = "/nix/store/0h1056s5ii4c1w472ryvgc0c447nz6yp-a"
	srcB    = "/nix/store/1h1056s5ii4c1w472ryvgc0c447nz6yp-b"
	float   = `("out","","r:sha256","")`
	zeros64 = "0000000000000000000000000000000000000000000000000000000000000000"
)

func base(path string) nix.StorePath { return nix.StorePath(strings.TrimPrefix(path, "/nix/store/")) }

// The texts are not as Nix prints them, but Nix 2.34.8 reads them, and
// understands them like this.
func TestParseLenient(t *testing.T) {
	floating := map[nix.OutputName]nix.DerivationOutput{
		"out": {Kind: nix.Floating, Method: nix.Recursive, Algorithm: nix.SHA256},
	}
	for _, test := range []struct {
		text string
		want nix.Derivation
	}{
		{ // Commas, duplicate variables, more text.
			`Derive([,` + float + `],[],[],"s","/b",[,"a""b"],[("out","")("z","1")("b","2")("z","3")])trailing`,
			nix.Derivation{BasicDerivation: nix.BasicDerivation{
				Outputs: floating, System: "s", Builder: "/b", Args: []string{"a", "b"},
				Env: map[string]string{"out": "", "b": "2", "z": "3"},
			}},
		},
		{ // The first output of a name, the last input derivation of a name.
			`Derive([` + float + `("out","","sha512","")],[("` + drvB + `",["out"]),("` + drvA + `",["z","dev","z"]),("` + drvB + `",["lib"])],` +
				`["` + srcB + `","` + srcA + `","` + srcB + `"],"s","/b",[],[])` + "\n",
			nix.Derivation{BasicDerivation: nix.BasicDerivation{
				Outputs: floating, System: "s", Builder: "/b",
				InputSrcs: []nix.StorePath{base(srcA), base(srcB)},
			}, InputDrvs: map[nix.StorePath]nix.InputOutputs{
				base(drvA): {Outputs: []nix.OutputName{"dev", "z"}},
				base(drvB): {Outputs: []nix.OutputName{"lib"}},
			}},
		},
		{ // Escapes that Nix does not write.
			`Derive([` + float + `],[],[],"\s","/\b",["\q\\\n"],[("\a\"","\
")])`,
			nix.Derivation{BasicDerivation: nix.BasicDerivation{
				Outputs: floating, System: "s", Builder: "/b", Args: []string{"q\\\n"},
				Env: map[string]string{"a\"": "\n"},
			}},
		},
		{ // The dynamic form where it is not needed, and dynamic outputs of the same name.
			`DrvWithVersion("xp-dyn-drv",[` + float + `],[("` + drvA + `",(["z","a"],[("out",["y"]),("out",(["x"],[("p",[])]))])),("` + drvB + `",[])],[],"s","/b",[],[])`,
			nix.Derivation{BasicDerivation: nix.BasicDerivation{
				Outputs: floating, System: "s", Builder: "/b",
			}, InputDrvs: map[nix.StorePath]nix.InputOutputs{
				base(drvA): {
					Outputs: []nix.OutputName{"a", "z"},
					Dynamic: map[nix.OutputName]nix.InputOutputs{"out": {
						Outputs: []nix.OutputName{"x"},
						Dynamic: map[nix.OutputName]nix.InputOutputs{"p": {}},
					}},
				},
				base(drvB): {},
			}},
		},
		{ // Raw control characters and bytes that are no text.
			"Derive([" + float + "],[],[],\"s\",\"/b\",[\"\n\x00\xff\"],[])",
			nix.Derivation{BasicDerivation: nix.BasicDerivation{
				Outputs: floating, System: "s", Builder: "/b", Args: []string{"\n\x00\xff"},
			}},
		},
	} {
		test.want.Name = "x"
		d, err := aterm.Parse(dir, "x", []byte(test.text), aterm.Limits{})
		if err != nil {
			t.Errorf("%q: %v", test.text, err)
			continue
		}
		if diff := cmp.Diff(&test.want, d, cmp.AllowUnexported(nix.Hash{}), cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("%q (-want +got):\n%s", test.text, diff)
		}
		// Printing and reading again loses nothing.
		printed, err := aterm.Marshal(dir, d)
		if err != nil {
			t.Errorf("%q: %v", test.text, err)
		}
		again, err := aterm.Parse(dir, "x", printed, aterm.Limits{})
		if err != nil {
			t.Errorf("%q is printed as %q: %v", test.text, printed, err)
		}
		if diff := cmp.Diff(d, again, cmp.AllowUnexported(nix.Hash{}), cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("%q, printed and read again (-want +got):\n%s", test.text, diff)
		}
	}
}

// withOutput is the text of a derivation with one output as given.
func withOutput(output string) string {
	return `Derive([` + output + `],[],[],"s","/b",[],[])`
}

func TestParseOutputs(t *testing.T) {
	fixed := func(m nix.ContentAddressMethod, hash string, path nix.StorePath) nix.DerivationOutput {
		h, err := nix.ParseHash(hash)
		if err != nil {
			t.Fatal(err)
		}
		return nix.DerivationOutput{Kind: nix.Fixed, Path: path, Method: m, Algorithm: h.Algorithm(), Hash: h}
	}
	zero := "sha256:" + zeros64
	for _, test := range []struct {
		output string
		want   nix.DerivationOutput
		print  string // "" if the same
	}{
		{`("out","","","")`, nix.DerivationOutput{Kind: nix.Deferred}, ""},
		{`("out","` + srcA + `","","")`, nix.DerivationOutput{Kind: nix.InputAddressed, Path: base(srcA)}, ""},
		{`("out","","","hash")`, nix.DerivationOutput{Kind: nix.Deferred}, `("out","","","")`},
		{`("out","","sha512","")`, nix.DerivationOutput{Kind: nix.Floating, Algorithm: nix.SHA512}, ""},
		{`("out","","text:sha256","")`, nix.DerivationOutput{Kind: nix.Floating, Method: nix.Text, Algorithm: nix.SHA256}, ""},
		{`("out","","git:sha1","")`, nix.DerivationOutput{Kind: nix.Floating, Method: nix.Git, Algorithm: nix.SHA1}, ""},
		{`("out","","r:blake3","impure")`, nix.DerivationOutput{Kind: nix.Impure, Method: nix.Recursive, Algorithm: nix.BLAKE3}, ""},
		{
			`("out","/nix/store/n9diadpxkknw09xypdk7jhadc709y1h1-t6","r:sha256","` + zeros64 + `")`,
			fixed(nix.Recursive, zero, "n9diadpxkknw09xypdk7jhadc709y1h1-t6"), "",
		},
		{ // base64
			`("out","/nix/store/n9diadpxkknw09xypdk7jhadc709y1h1-t6","r:sha256","AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=")`,
			fixed(nix.Recursive, zero, "n9diadpxkknw09xypdk7jhadc709y1h1-t6"),
			`("out","/nix/store/n9diadpxkknw09xypdk7jhadc709y1h1-t6","r:sha256","` + zeros64 + `")`,
		},
		{ // Nix's base32
			`("out","/nix/store/n9diadpxkknw09xypdk7jhadc709y1h1-t6","r:sha256","` + zeros64[:52] + `")`,
			fixed(nix.Recursive, zero, "n9diadpxkknw09xypdk7jhadc709y1h1-t6"),
			`("out","/nix/store/n9diadpxkknw09xypdk7jhadc709y1h1-t6","r:sha256","` + zeros64 + `")`,
		},
	} {
		d, err := aterm.Parse(dir, "t6", []byte(withOutput(test.output)), aterm.Limits{})
		if err != nil {
			t.Errorf("%s: %v", test.output, err)
			continue
		}
		if got := d.Outputs["out"]; got != test.want {
			t.Errorf("%s is %+v, want %+v", test.output, got, test.want)
		}
		if test.print == "" {
			test.print = test.output
		}
		if got, err := aterm.Marshal(dir, d); err != nil || string(got) != withOutput(test.print) {
			t.Errorf("%s is printed as %s, %v, want %s", test.output, got, err, test.print)
		}
	}
}

func TestParseErrors(t *testing.T) {
	for _, test := range []struct{ text, want string }{
		{``, "byte 0: derivation does not start with 'Derive(' or 'DrvWithVersion('"},
		{` Derive(`, "byte 0: derivation does not start with"},
		{`Derive(`, "byte 7: expected '[', but the text ends"},
		{`Derive([],[],[],"s","/b",[],[]`, "byte 30: expected ')', but the text ends"},
		{`Derive([],[],[],"s","/b",[],]`, "byte 28: expected '[', not ']'"},
		{`Derive([],[],[],"s","/b",["a",],[])`, `byte 30: expected '"', not ']'`},
		{`Derive([],[],[],"s","/b",["a`, "byte 26: unterminated string"},
		{`Derive([],[],[],"s","/b",["a\"`, "byte 26: unterminated string"},
		{`Derive([],[],[],"s","/b",["a\`, "byte 26: unterminated string"},
		{`Derive([],[],[],"s","/b",[],[("a")])`, "byte 33: expected ',', not ')'"},
		{`Derive([],[],[],"s\"","/b",[],[])`, `byte 16: system 's"' contains a quote or a backslash`},
		{`Derive([],[],[],"s\\","/b",[],[])`, `byte 16: system 's\' contains a quote or a backslash`},
		{`DrvWithVersion("xp-dyn-drw",[],[],[],"s","/b",[],[])`, "byte 15: unknown derivation ATerm format version 'xp-dyn-drw'"},
		{`Derive([],[("` + drvA + `",([],[]))],[],"s","/b",[],[])`, "byte 64: expected '[', not '('"},
		{`Derive([],[("` + srcA + `",["out"])],[],"s","/b",[],[])`, "byte 12: input '" + string(base(srcA)) + "' is not a derivation"},
		{`Derive([],[("` + drvA + `",["o t"])],[],"s","/b",[],[])`, "byte 65: output name 'o t' contains illegal character ' '"},
		{`Derive([],[],["/nix//store/` + string(base(srcA)) + `"],"s","/b",[],[])`, "byte 14: path '/nix//store/"},
		{`Derive([],[],["` + srcA + `/x"],"s","/b",[],[])`, "byte 14: path '"},
		{withOutput(`("","","sha256","")`), "byte 9: output name must not be empty"},
		{withOutput(`("a/b","","sha256","")`), "byte 9: output name 'a/b' contains illegal character '/'"},
		{withOutput(`("out","","sha257","")`), "byte 9: output 'out': unknown hash algorithm 'sha257'"},
		{withOutput(`("out","","r:","")`), "byte 9: output 'out': unknown hash algorithm ''"},
		{withOutput(`("out","` + srcA + `","sha256","")`), "byte 9: output 'out': floating content-addressed output should not specify output path"},
		{withOutput(`("out","` + srcA + `","sha256","impure")`), "byte 9: output 'out': impure output should not specify output path"},
		{withOutput(`("out","","sha256","` + zeros64 + `")`), "byte 9: output 'out': path '' is not in the Nix store"},
		{withOutput(`("out","` + srcA + `","sha256","` + zeros64 + `")`), "byte 9: output 'out': path '" + srcA + "' does not match its content address, should be '/nix/store/"},
		{withOutput(`("out","` + srcA + `","sha256","` + zeros64[1:] + `")`), "byte 9: output 'out': hash '" + zeros64[1:] + "' has wrong length"},
		{withOutput(`("out","out","","")`), "byte 9: output 'out': path 'out' is not in the Nix store"},
		{withOutput(`("out",""`), "byte 17: expected ',', not ']'"},
	} {
		_, err := aterm.Parse(dir, "name", []byte(test.text), aterm.Limits{})
		if err == nil || !strings.HasPrefix(err.Error(), "parse derivation 'name': "+test.want) {
			t.Errorf("%s: %v, want %s", test.text, err, test.want)
		}
	}
}

func TestLimits(t *testing.T) {
	nested := `["x"]`
	for range 3 {
		nested = `([],[("out",` + nested + `)])`
	}
	dynamic := `DrvWithVersion("xp-dyn-drv",[],[("` + drvA + `",` + nested + `)],[],"s","/b",[],[])`
	small := `Derive([` + float + `],[("` + drvA + `",["out"])],["` + srcA + `"],"s","/b",["a"],[("a","b")])`
	for _, test := range []struct {
		text   string
		limits aterm.Limits
		ok     bool
	}{
		{small, aterm.Limits{Bytes: len(small)}, true},
		{small, aterm.Limits{Bytes: len(small) - 1}, false},
		{small, aterm.Limits{Entries: 6}, true},
		{small, aterm.Limits{Entries: 5}, false},
		{dynamic, aterm.Limits{Depth: 3}, true},
		{dynamic, aterm.Limits{Depth: 2}, false},
		{dynamic, aterm.Limits{Entries: 5}, true},
		{dynamic, aterm.Limits{Entries: 4}, false},
		{`DrvWithVersion("xp-dyn-drv",[],[("` + drvA + `",` + strings.Repeat(`([],[("out",`, 1000), aterm.Limits{}, false},
	} {
		if _, err := aterm.Parse(dir, "x", []byte(test.text), test.limits); (err == nil) != test.ok ||
			err != nil && !strings.Contains(err.Error(), "limit") {
			t.Errorf("%.80s with %+v: %v", test.text, test.limits, err)
		}
	}
}

func TestMarshalErrors(t *testing.T) {
	hash := nix.HashBytes(nix.SHA256, nil)
	for _, test := range []struct {
		change func(*nix.Derivation)
		want   string
	}{
		{func(d *nix.Derivation) { d.System = `x","` }, "contains a quote or a backslash"},
		{func(d *nix.Derivation) { d.Outputs["a\""] = nix.DerivationOutput{Kind: nix.Deferred} }, "illegal character"},
		{func(d *nix.Derivation) { d.Outputs["a"] = nix.DerivationOutput{} }, "output 'a' (unknown) is not complete"},
		{func(d *nix.Derivation) { d.Outputs["a"] = nix.DerivationOutput{Kind: nix.InputAddressed} }, "output 'a' (input-addressed) is not complete"},
		{func(d *nix.Derivation) { d.Outputs["a"] = nix.DerivationOutput{Kind: nix.Fixed, Algorithm: nix.SHA256} }, "output 'a' (fixed) is not complete"},
		{func(d *nix.Derivation) { d.Outputs["a"] = nix.DerivationOutput{Kind: nix.Floating} }, "output 'a' (floating content-addressed) is not complete"},
		{func(d *nix.Derivation) {
			d.Outputs["a"] = nix.DerivationOutput{Kind: nix.Fixed, Hash: hash, Path: base(srcA)}
		}, "does not match its content address"},
		{func(d *nix.Derivation) {
			d.InputDrvs[base(drvA)] = nix.InputOutputs{Dynamic: map[nix.OutputName]nix.InputOutputs{"a": {Outputs: []nix.OutputName{"]"}}}}
		}, "illegal character"},
		{func(d *nix.Derivation) { d.Name = "" }, "name must not be empty"},
	} {
		d := drvOf("x", nix.Fixed)
		d.Outputs["out"] = nix.DerivationOutput{Kind: nix.Fixed, Hash: hash}
		if _, err := aterm.Marshal(dir, d); err != nil {
			t.Fatal(err)
		}
		test.change(d)
		if text, err := aterm.Marshal(dir, d); err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("got %s, %v, want %s", text, err, test.want)
		}
	}
}

func TestAppend(t *testing.T) {
	d := drvOf("x", nix.Deferred)
	got, err := aterm.Append([]byte("prefix "), dir, d)
	if want := `prefix Derive([("out","","","")],[],[],"s","/b",[],[("out","")])`; err != nil || string(got) != want {
		t.Errorf("got %s, %v, want %s", got, err, want)
	}
}

func FuzzParse(f *testing.F) {
	for _, path := range drvFiles(f, golden) {
		_, text, err := readDrv(golden, path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(text))
	}
	for _, text := range []string{
		``, `Derive(`, `Derive([],[],[],"","",[],[])`, `Derive([,` + float + `],[],[],"\x","",["a""\"],[])`,
		`DrvWithVersion("xp-dyn-drv",[],[("` + drvA + `",([],[("out",([],[]))]))],[],"","",[],[("","")])`,
	} {
		f.Add(text)
	}
	limits := aterm.Limits{Entries: 1000, Depth: 10}
	f.Fuzz(func(t *testing.T, text string) {
		d, err := aterm.Parse(dir, "fuzz", []byte(text), limits)
		if err != nil {
			return
		}
		once, err := aterm.Marshal(dir, d)
		if err != nil {
			t.Fatalf("%q was read, but cannot be printed: %v", text, err)
		}
		again, err := aterm.Parse(dir, "fuzz", once, limits)
		if err != nil {
			t.Fatalf("%q: cannot read %q: %v", text, once, err)
		}
		if diff := cmp.Diff(d, again, cmp.AllowUnexported(nix.Hash{}), cmpopts.EquateEmpty()); diff != "" {
			t.Fatalf("%q, printed and read again (-want +got):\n%s", text, diff)
		}
		twice, err := aterm.Marshal(dir, again)
		if err != nil || string(twice) != string(once) {
			t.Fatalf("%q prints %q and then %q, %v", text, once, twice, err)
		}
		h := aterm.NewHasher(dir, nil, aterm.HasherOptions{})
		if len(d.InputDrvs) == 0 {
			h.OutputPaths(t.Context(), d)
		}
	})
}

// bigDrv is a derivation like those of large packages.
func bigDrv() []byte {
	d := drvOf("big", nix.Deferred)
	for i := range 200 {
		d.InputDrvs[nix.StorePath("0h1056s5ii4c1w472ryvgc0c447nz6yp-"+strings.Repeat("n", i+1)+".drv")] = nix.InputOutputs{Outputs: []nix.OutputName{"dev", "out"}}
		d.Env[strings.Repeat("v", i+1)] = "/nix/store/0h1056s5ii4c1w472ryvgc0c447nz6yp-some-package-1.2.3/bin/program"
	}
	d.Env["buildCommand"] = strings.Repeat("echo \"building\" \\\n\t--prefix $out\n", 100)
	text, _ := aterm.Marshal(dir, d)
	return text
}

func BenchmarkParse(b *testing.B) {
	text := bigDrv()
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := aterm.Parse(dir, "big", text, aterm.Limits{}); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkMarshal(b *testing.B) {
	text := bigDrv()
	d, err := aterm.Parse(dir, "big", text, aterm.Limits{})
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	buf := make([]byte, 0, len(text))
	for b.Loop() {
		if buf, err = aterm.Append(buf[:0], dir, d); err != nil {
			b.Fatal(err)
		}
	}
}
