package nix_test

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/kilnbuild/kiln/nix"
)

const dir = nix.DefaultStoreDir

func TestParseStoreDir(t *testing.T) {
	for s, ok := range map[string]bool{
		"/nix/store": true, "/s": true, "/": false, "": false, "nix/store": false, "/nix/store/": false, "/nix/../store": false,
	} {
		if _, err := nix.ParseStoreDir(s); (err == nil) != ok {
			t.Errorf("%q: %v", s, err)
		}
	}
}

func TestCheckName(t *testing.T) {
	for name, ok := range map[string]bool{
		"a": true, ".gitignore": true, "..a": true, "a+b-._?=0Z": true, strings.Repeat("x", 211): true, "...": true, "-": true,
		"": false, ".": false, "..": false, ".-": false, ".-a": false, "..-": false, "..-a": false,
		"a b": false, "a/b": false, "a\x00": false, "é": false, "a~": false, strings.Repeat("x", 212): false,
	} {
		if err := nix.CheckName(name); (err == nil) != ok {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestParseStorePath(t *testing.T) {
	const base = "ivlnvab4q9c7wbsvbfsvgaa15j9p6206-hello"
	p, err := dir.Parse("/nix/store/" + base)
	if err != nil || p != base {
		t.Fatalf("got %s, %v", p, err)
	}
	if p.HashPart() != base[:32] || p.Name() != "hello" || p.IsDerivation() || dir.Join(p) != "/nix/store/"+base {
		t.Errorf("parts are %s, %s, %s", p.HashPart(), p.Name(), dir.Join(p))
	}
	for _, bad := range []string{
		base, "/nix/store", "/nix/store/", "/nix/store/" + base + "/", "/nix/store//" + base, "/nix/store/./" + base,
		"/nix/store/" + base[:33], "/nix/store/" + base[:32], "/nix/store/" + strings.Replace(base, "v", "e", 1),
		"/nix/store/" + strings.Replace(base, "v", "V", 1), "/nix/storex/" + base, "/nix/store/" + base + "\n",
	} {
		if p, err := dir.Parse(bad); err == nil {
			t.Errorf("%q is the store path %s", bad, p)
		}
	}
	for full, want := range map[string]string{
		"/nix/store/" + base: "", "/nix/store/" + base + "/": "/", "/nix/store/" + base + "/a/../b": "/a/../b",
	} {
		if p, rest, err := dir.Split(full); err != nil || p != base || rest != want {
			t.Errorf("%s is %s and %s, %v", full, p, rest, err)
		}
	}
	for _, bad := range []string{"/nix/store", "/nix/store/", "/etc/" + base, "/nix/store/x/" + base} {
		if _, _, err := dir.Split(bad); err == nil {
			t.Errorf("%s is in the store", bad)
		}
	}
}

// Values that real Nix gave.
func TestGolden(t *testing.T) {
	if got, want := nix.Placeholder("out"), "/1rz4g4znpzjwh1xymhjpm42vipw92pr73vdgl6xs1hycac8kf2n9"; got != want {
		t.Errorf("placeholder is %s, want %s", got, want)
	}
	if got, want := nix.Placeholder("lib"), "/0sra2y18lr3h6j58qjm0w46yv36h1wjmilb09n8aimdpivdymscx"; got != want {
		t.Errorf("placeholder is %s, want %s", got, want)
	}
	hello := nix.HashBytes(nix.SHA256, []byte("hello world"))
	ca := nix.ContentAddress{Method: nix.Text, Hash: hello}
	if got, want := ca.String(), "text:sha256:1sfdxziarxw8j3p80lvswgpq9i7smdyxmmsj5sjhhgjdjfwjfkdr"; got != want {
		t.Errorf("content address is %s, want %s", got, want)
	}
	p, err := nix.MakeContentAddressedPath(dir, "hello", ca, nix.References{})
	if want := nix.StorePath("ivlnvab4q9c7wbsvbfsvgaa15j9p6206-hello"); err != nil || p != want {
		t.Errorf("path of text is %s, %v, want %s", p, err, want)
	}
}

func TestHashForms(t *testing.T) {
	for algo, forms := range map[string][]string{
		"md5":    {"5d41402abc4b2a76b9719d911017c592", "4jqlbi14cxf6wpcajbphm40hax", "XUFAKrxLKna5cZ2REBfFkg=="},
		"sha1":   {"aaf4c61ddcc5e8a2dabede0f3b482cd9aea9434d", "9m1skbnr5i43n3yypvda5s65vhfwdx5a", "qvTGHdzF6KLavt4PO0gs2a6pQ00="},
		"sha256": {"2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824", "094qif9n4cq4fdg459qzbhg1c6wywawwaaivx0k0x8xhbyx4vwic", "LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ="},
	} {
		a, err := nix.ParseHashAlgorithm(algo)
		if err != nil {
			t.Fatal(err)
		}
		want := nix.HashBytes(a, []byte("hello"))
		if diff := cmp.Diff(forms, []string{want.Base16(), want.Nix32(), strings.TrimPrefix(want.SRI(), algo+"-")}); diff != "" {
			t.Errorf("%s (-want +got):\n%s", algo, diff)
		}
		for _, s := range forms {
			if got, err := nix.ParseDigest(a, s); err != nil || got != want {
				t.Errorf("%s: got %v, %v", s, got, err)
			}
			if got, err := nix.ParseHash(algo + ":" + s); err != nil || got != want {
				t.Errorf("%s: got %v, %v", s, got, err)
			}
			if got, err := nix.ParseAnyHash(s, a); err != nil || got != want {
				t.Errorf("%s: got %v, %v", s, got, err)
			}
			if got, err := nix.ParseAnyHash(s, 0); err == nil {
				t.Errorf("%s has no algorithm, but is %v", s, got)
			}
			for _, bad := range []string{s[1:], s + "0", "sha0:" + s, s[:len(s)-1] + "!"} {
				if got, err := nix.ParseAnyHash(bad, a); err == nil {
					t.Errorf("%s is %v", bad, got)
				}
			}
		}
		if got, err := nix.ParseHash(want.SRI()); err != nil || got != want {
			t.Errorf("%s: got %v, %v", want.SRI(), got, err)
		}
		if got, err := nix.ParseAnyHash(want.SRI(), nix.SHA512); err == nil {
			t.Errorf("%s is %v with another algorithm", want.SRI(), got)
		}
	}
	if !(nix.Hash{}).IsZero() || (nix.Hash{}).String() != "" {
		t.Error("the zero hash is not none")
	}
}

func TestContentAddress(t *testing.T) {
	const digest = "1sfdxziarxw8j3p80lvswgpq9i7smdyxmmsj5sjhhgjdjfwjfkdr"
	for _, s := range []string{
		"", "text:sha256:" + digest, "fixed:sha256:" + digest, "fixed:r:sha256:" + digest, "fixed:git:sha256:" + digest,
		"fixed:r:md5:4jqlbi14cxf6wpcajbphm40hax",
	} {
		c, err := nix.ParseContentAddress(s)
		if err != nil || c.String() != s || c.IsZero() != (s == "") {
			t.Errorf("%s: got %s, %v", s, c, err)
		}
	}
	for _, s := range []string{
		"text", "text:" + digest, "text:md5:4jqlbi14cxf6wpcajbphm40hax", "fixed:text:sha256:" + digest, "fixed:r:" + digest,
		"r:sha256:" + digest, "fixed:x:sha256:" + digest,
	} {
		if c, err := nix.ParseContentAddress(s); err == nil {
			t.Errorf("%s is %s", s, c)
		}
	}
}

func TestContentAddressedPathErrors(t *testing.T) {
	sha256, md5 := nix.HashBytes(nix.SHA256, nil), nix.HashBytes(nix.MD5, nil)
	self := nix.References{Self: true}
	other := nix.References{Others: []nix.StorePath{"ivlnvab4q9c7wbsvbfsvgaa15j9p6206-hello"}}
	for _, test := range []struct {
		name string
		ca   nix.ContentAddress
		refs nix.References
		ok   bool
	}{
		{"x", nix.ContentAddress{Method: nix.Recursive, Hash: sha256}, self, true},
		{"x", nix.ContentAddress{Method: nix.Recursive, Hash: sha256}, other, true},
		{"x", nix.ContentAddress{Method: nix.Text, Hash: sha256}, other, true},
		{"x", nix.ContentAddress{Method: nix.Text, Hash: sha256}, self, false},
		{"x", nix.ContentAddress{Method: nix.Text, Hash: md5}, nix.References{}, false},
		{"x", nix.ContentAddress{Method: nix.Recursive, Hash: md5}, other, false},
		{"x", nix.ContentAddress{Method: nix.Flat, Hash: sha256}, self, false},
		{"x", nix.ContentAddress{Method: nix.Git, Hash: sha256}, other, false},
		{"x", nix.ContentAddress{}, nix.References{}, false},
		{"x y", nix.ContentAddress{Method: nix.Flat, Hash: sha256}, nix.References{}, false},
	} {
		if p, err := nix.MakeContentAddressedPath(dir, test.name, test.ca, test.refs); (err == nil) != test.ok {
			t.Errorf("%s %s %+v: %s, %v", test.name, test.ca, test.refs, p, err)
		}
	}
}

// The order in which references are given, and doubles, make no difference; what
// they are does.
func TestReferencesInPath(t *testing.T) {
	const a, b = "0vlnvab4q9c7wbsvbfsvgaa15j9p6206-a", "1vlnvab4q9c7wbsvbfsvgaa15j9p6206-b"
	pathFor := func(self bool, others ...nix.StorePath) nix.StorePath {
		p, err := nix.MakeContentAddressedPath(dir, "x", nix.ContentAddress{Method: nix.Recursive, Hash: nix.HashBytes(nix.SHA256, nil)},
			nix.References{Others: others, Self: self})
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	if pathFor(false, a, b) != pathFor(false, b, a, b) {
		t.Error("the order of references pathFors a difference")
	}
	if pathFor(false, a) == pathFor(false, b) || pathFor(false, a) == pathFor(true, a) || pathFor(false) == pathFor(true) {
		t.Error("different references pathFor no difference")
	}
}

func TestDerivedPath(t *testing.T) {
	const drv, out = "ivlnvab4q9c7wbsvbfsvgaa15j9p6206-hello.drv", "ivlnvab4q9c7wbsvbfsvgaa15j9p6206-hello"
	for s, want := range map[string]nix.DerivedPath{
		"/nix/store/" + out:                nix.Opaque(out),
		"/nix/store/" + drv:                nix.Opaque(drv),
		"/nix/store/" + drv + "^*":         nix.Built(drv, nix.AllOutputs),
		"/nix/store/" + drv + "^dev,out":   nix.Built(drv, nix.OutputSpec{Names: []nix.OutputName{"dev", "out"}}),
		"/nix/store/" + drv + "^out^bin^*": {Path: drv, Via: []nix.OutputName{"out", "bin"}, Outputs: nix.AllOutputs},
	} {
		got, err := nix.ParseDerivedPath(dir, s, "^")
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("%s: %v (-want +got):\n%s", s, err, diff)
		}
		if back := got.Format(dir, "^"); back != s {
			t.Errorf("%s is printed as %s", s, back)
		}
	}
	for _, s := range []string{"/nix/store/" + out + "^out", "/nix/store/" + drv + "^", "/nix/store/" + drv + "^a/b", "/nix/store/" + drv + "^a b^*", out} {
		if p, err := nix.ParseDerivedPath(dir, s, "^"); err == nil {
			t.Errorf("%s is %+v", s, p)
		}
	}
}

func TestKind(t *testing.T) {
	type outputs = map[nix.OutputName]nix.DerivationOutput
	fixed := nix.DerivationOutput{Kind: nix.Fixed}
	floating := nix.DerivationOutput{Kind: nix.Floating, Algorithm: nix.SHA256}
	for _, test := range []struct {
		outputs outputs
		want    nix.OutputKind // 0 for an error
	}{
		{outputs{}, 0},
		{outputs{"out": {Kind: nix.InputAddressed}, "dev": {Kind: nix.InputAddressed}}, nix.InputAddressed},
		{outputs{"out": {Kind: nix.InputAddressed}, "dev": {Kind: nix.Deferred}}, 0},
		{outputs{"out": fixed}, nix.Fixed},
		{outputs{"dev": fixed}, 0},
		{outputs{"dev": fixed, "out": fixed}, 0},
		{outputs{"dev": floating, "out": floating}, nix.Floating},
		{outputs{"dev": floating, "out": {Kind: nix.Floating, Algorithm: nix.SHA512}}, 0},
		{outputs{"out": {Kind: nix.Impure}}, nix.Impure},
	} {
		d := nix.BasicDerivation{Name: "x", Outputs: test.outputs}
		if got, err := d.Kind(); got != test.want || (err == nil) != (test.want != 0) {
			t.Errorf("%+v: %s, %v, want %s", test.outputs, got, err, test.want)
		}
	}
}
