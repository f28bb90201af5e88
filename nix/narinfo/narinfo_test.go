package narinfo

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/kilnbuild/kiln/nix"
)

const text = `StorePath: /nix/store/ivlnvab4q9c7wbsvbfsvgaa15j9p6206-hello
URL: nar/1xmr8jicvzszfzpz46g37mlpvbzjl2wpwvl2b05psipssyp1sm8h.nar.xz
Compression: xz
FileHash: sha256:1xmr8jicvzszfzpz46g37mlpvbzjl2wpwvl2b05psipssyp1sm8h
FileSize: 100
NarHash: sha256:1xmr8jicvzszfzpz46g37mlpvbzjl2wpwvl2b05psipssyp1sm8h
NarSize: 128
References: 00000000000000000000000000000000-a ivlnvab4q9c7wbsvbfsvgaa15j9p6206-hello
Deriver: 11111111111111111111111111111111-hello.drv
Sig: a-1:c2ln
Sig: b-1:c2ln
CA: fixed:r:sha256:1xmr8jicvzszfzpz46g37mlpvbzjl2wpwvl2b05psipssyp1sm8h
`

func TestRoundTrip(t *testing.T) {
	i, err := Parse(nix.DefaultStoreDir, []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(text, string(i.Append(nil, nix.DefaultStoreDir))); d != "" {
		t.Errorf("(-read +written):\n%s", d)
	}
}

func TestTaken(t *testing.T) {
	small := "NarSize: 128\nStorePath: /nix/store/ivlnvab4q9c7wbsvbfsvgaa15j9p6206-hello\nURL: x\nNarHash: sha256:1xmr8jicvzszfzpz46g37mlpvbzjl2wpwvl2b05psipssyp1sm8h\n"
	i, err := Parse(nix.DefaultStoreDir, []byte(small+"Deriver: unknown-deriver\nSystem: x\nReferences: \nReferences: 00000000000000000000000000000000-a\n"))
	if err != nil || i.Compression != "bzip2" || i.Deriver != "" || len(i.References) != 1 {
		t.Errorf("%+v, %v", i, err)
	}
}

func TestRefused(t *testing.T) {
	for name, change := range map[string][2]string{
		"cut off":               {"hello.drv\n", "hello.drv"},
		"no colon":              {"Compression: xz", "Compression"},
		"other store":           {"/nix/store/ivl", "/gnu/store/ivl"},
		"no path":               {"StorePath:", "Path:"},
		"no URL":                {"URL:", "Url:"},
		"no hash":               {"NarHash:", "Hash:"},
		"no size":               {"NarSize: 128", "NarSize: 0"},
		"large size":            {"NarSize: 128", "NarSize: 9223372036854775808"},
		"negative size":         {"NarSize: 128", "NarSize: -1"},
		"bad hash":              {"NarHash: sha256:1", "NarHash: sha256:z"},
		"other algorithm":       {"NarHash: sha256:", "NarHash: sha1:"},
		"bad reference":         {"-a ivl", "-a/ivl"},
		"reference with a path": {"References: ", "References: /nix/store/"},
		"twice references":      {"Deriver: 11111111111111111111111111111111-hello.drv", "References: 00000000000000000000000000000000-a"},
		"bad address":           {"CA: fixed", "CA: fxd"},
		"many signatures":       {"Sig: a-1:c2ln", strings.Repeat("Sig: a-1:c2ln\n", 300)[:300*14-1]},
		"large":                 {"Sig: a-1:c2ln", "Sig: " + strings.Repeat("x", MaxSize)},
	} {
		bad := strings.Replace(text, change[0], change[1], 1)
		if name == "cut off" {
			bad = bad[:strings.Index(bad, "Sig")]
		}
		if i, err := Parse(nix.DefaultStoreDir, []byte(bad)); err == nil || len(err.Error()) > 1000 {
			t.Errorf("%s: %+v, %v", name, i, err)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(text))
	f.Add([]byte("StorePath: \n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		i, err := Parse(nix.DefaultStoreDir, data)
		if err != nil {
			return
		}
		again, err := Parse(nix.DefaultStoreDir, i.Append(nil, nix.DefaultStoreDir))
		if d := cmp.Diff(i, again, cmp.AllowUnexported(nix.Hash{}), cmpopts.EquateEmpty()); err != nil || d != "" {
			t.Errorf("what was written reads differently: %v (-first +again):\n%s", err, d)
		}
	})
}
