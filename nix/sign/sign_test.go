package sign

import (
	"strings"
	"testing"

	"github.com/kilnbuild/kiln/nix"
)

// A pair of keys that nix-store 2.8 --generate-binary-cache-key made for nobody else.
const (
	secret = "test.example-1:9XcYl8Dd4vfCDXxiqqI7shyW8euOSN6wMysCkU8anmv3kJNO08u2JTg17Q4uwY8DtvFZ6v7h9vpO12kjyNZQfg=="
	public = "test.example-1:95CTTtPLtiU4Ne0OLsGPA7bxWer+4fb6TtdpI8jWUH4="
)

func object() *nix.PathInfo {
	h, err := nix.ParseHash("sha256:04zwf782yjwnh3q6hz5izfd6jyip8kgw6g6yj43fiqhbyhdd0dqw")
	if err != nil {
		panic(err)
	}
	return &nix.PathInfo{Path: "xp0dpr9yz5h0fk5c5lpj7zzqjbdh3w8c-f", NARHash: h, NARSize: 128,
		References: []nix.StorePath{"zzzdpr9yz5h0fk5c5lpj7zzqjbdh3w8c-b", "xp0dpr9yz5h0fk5c5lpj7zzqjbdh3w8c-f", "zzzdpr9yz5h0fk5c5lpj7zzqjbdh3w8c-b"}}
}

func TestObject(t *testing.T) {
	got, err := Object(nix.DefaultStoreDir, object())
	want := "1;/nix/store/xp0dpr9yz5h0fk5c5lpj7zzqjbdh3w8c-f;sha256:04zwf782yjwnh3q6hz5izfd6jyip8kgw6g6yj43fiqhbyhdd0dqw;128;" +
		"/nix/store/xp0dpr9yz5h0fk5c5lpj7zzqjbdh3w8c-f,/nix/store/zzzdpr9yz5h0fk5c5lpj7zzqjbdh3w8c-b"
	if err != nil || got != want {
		t.Errorf("%q, %v, want %q", got, err, want)
	}
	info := object()
	info.NARSize = 0
	if _, err := Object(nix.DefaultStoreDir, info); err == nil {
		t.Error("an object without a size has a fingerprint")
	}
}

func TestRealisations(t *testing.T) {
	r := &nix.Realisation{ID: nix.DrvOutput{Drv: "xp0dpr9yz5h0fk5c5lpj7zzqjbdh3w8c-f.drv", Output: "out"}, OutPath: "xp0dpr9yz5h0fk5c5lpj7zzqjbdh3w8c-f"}
	want := `{"key":{"drvPath":"xp0dpr9yz5h0fk5c5lpj7zzqjbdh3w8c-f.drv","outputName":"out"},"value":{"outPath":"xp0dpr9yz5h0fk5c5lpj7zzqjbdh3w8c-f"}}`
	if got := Realisation(r); got != want {
		t.Errorf("%s, want %s", got, want)
	}
	want = `{"dependentRealisations":{},"id":"sha256:00!out","outPath":"xp0dpr9yz5h0fk5c5lpj7zzqjbdh3w8c-f"}`
	if got := LegacyRealisation("sha256:00!out", r.OutPath); got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

func TestSignatures(t *testing.T) {
	if got, err := PublicKey(secret + "\n"); err != nil || got != public {
		t.Errorf("%s, %v, want %s", got, err, public)
	}
	keys, err := ParseKeys([]string{public})
	if err != nil {
		t.Fatal(err)
	}
	signature, err := Sign(secret, "what is signed")
	if err != nil {
		t.Fatal(err)
	}
	name, rest, _ := strings.Cut(signature, ":")
	for _, tt := range []struct {
		fingerprint string
		signatures  []string
		want        bool
	}{
		{"what is signed", []string{signature}, true},
		{"what is signed", []string{"", "x", "a:!", signature}, true},
		{"something else", []string{signature}, false},
		{"what is signed", nil, false},
		{"what is signed", []string{"other:" + rest}, false},
		{"what is signed", []string{name + ":" + rest[:20]}, false},
		{"what is signed", []string{name + ":" + strings.Repeat("A", 86) + "=="}, false},
	} {
		if got := keys.Trusted(tt.fingerprint, tt.signatures); got != tt.want {
			t.Errorf("%q by %q: %v", tt.fingerprint, tt.signatures, got)
		}
		if Keys(nil).Trusted(tt.fingerprint, tt.signatures) {
			t.Error("trusted without a key")
		}
	}
	for _, bad := range []string{"", ":", "name", "name:", "name:!", "name:AAAA", ":" + rest} {
		if _, err := ParseKeys([]string{bad}); err == nil {
			t.Errorf("%q is a public key", bad)
		}
		if _, err := PublicKey(bad); err == nil {
			t.Errorf("%q is a secret key", bad)
		}
		if _, err := Sign(bad, ""); err == nil {
			t.Errorf("signed with %q", bad)
		}
	}
}

// FuzzTrusted wants nonsense to be trusted by nobody, and to do no harm.
func FuzzTrusted(f *testing.F) {
	f.Add(public, "test.example-1:AAAA")
	f.Fuzz(func(t *testing.T, key, signature string) {
		keys, err := ParseKeys([]string{key})
		if err == nil && keys.Trusted("what is signed", []string{signature}) && key == public {
			t.Error("a signature was found by chance")
		}
	})
}
