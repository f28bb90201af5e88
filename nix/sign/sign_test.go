package sign

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/kilnbuild/kiln/internal/testenv"
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
	k, err := ParseSecretKey(secret + "\n")
	if err != nil || k.Public().String() != public || k.Text() != secret {
		t.Fatalf("%v, %v, want %s", k.Public(), err, public)
	}
	keys, err := ParseKeys([]string{" " + public + "\n"})
	if err != nil {
		t.Fatal(err)
	}
	signature := k.Sign("what is signed")
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
		{"what is signed", []string{name + ":" + rest[:20], name, name + ":"}, false},
		{"what is signed", []string{name + ":" + strings.Repeat("A", 86) + "=="}, false},
	} {
		if got := keys.Trusted(tt.fingerprint, tt.signatures); got != tt.want {
			t.Errorf("%q by %q: %v", tt.fingerprint, tt.signatures, got)
		}
		if Keys(nil).Trusted(tt.fingerprint, tt.signatures) {
			t.Error("trusted without a key")
		}
	}
}

func TestObjectSignatures(t *testing.T) {
	k, err := GenerateKey("test-1")
	if err != nil {
		t.Fatal(err)
	}
	keys, i := NewKeys(k.Public()), object()
	if keys.TrustedObject(nix.DefaultStoreDir, i) {
		t.Error("it was signed by nobody")
	}
	s, err := k.SignObject(nix.DefaultStoreDir, i)
	i.Signatures = []string{"broken", "test-1:", "test-1:c2ln", s}
	if err != nil || !keys.TrustedObject(nix.DefaultStoreDir, i) {
		t.Errorf("its signature is not found right: %v", err)
	}
	for name, change := range map[string]func(*nix.PathInfo){
		"path":       func(i *nix.PathInfo) { i.Path = "00000000000000000000000000000000-a" },
		"size":       func(i *nix.PathInfo) { i.NARSize++ },
		"no size":    func(i *nix.PathInfo) { i.NARSize = 0 },
		"hash":       func(i *nix.PathInfo) { i.NARHash = nix.HashBytes(nix.SHA256, nil) },
		"references": func(i *nix.PathInfo) { i.References = i.References[1:2] },
	} {
		changed := *i
		change(&changed)
		if keys.TrustedObject(nix.DefaultStoreDir, &changed) {
			t.Errorf("another %s, and still signed", name)
		}
	}
	other, err := GenerateKey("test-1")
	if err != nil {
		t.Fatal(err)
	}
	if NewKeys(other.Public(), k.Public()).TrustedObject(nix.DefaultStoreDir, i) {
		t.Error("signed by another key of the same name")
	}
	i.NARSize = 0
	if _, err := k.SignObject(nix.DefaultStoreDir, i); err == nil {
		t.Error("signed without a size")
	}
}

func TestKeysRefused(t *testing.T) {
	for _, bad := range []string{"", "x", "x:", ":AAAA", "a b:AAAA", "x:AAAA", "x:***", ":"} {
		if _, err := ParseSecretKey(bad); err == nil {
			t.Errorf("secret key '%s' was read", bad)
		}
		if _, err := ParseKeys([]string{public, bad}); err == nil {
			t.Errorf("public key '%s' was read", bad)
		}
	}
	for _, bad := range []string{"", "a:b", "a b"} {
		if _, err := GenerateKey(bad); err == nil {
			t.Errorf("a key was called '%s'", bad)
		}
	}
	if _, err := ParseSecretKey(secret[:60]); err == nil || strings.Contains(err.Error(), secret[20:60]) {
		t.Errorf("the error tells the key: %v", err)
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
		if k, err := ParsePublicKey(key); err == nil && strings.TrimSpace(key) != k.String() && len(key) < len(k.String()) {
			t.Errorf("%q became %q", key, k)
		}
	})
}

// Real Nix makes keys that are read here, and the other way round.
func TestRealKeys(t *testing.T) {
	testenv.NixVersion(t)
	nixKey := func(in string, words ...string) string {
		cmd := exec.Command("nix", append([]string{"--extra-experimental-features", "nix-command", "key"}, words...)...)
		cmd.Stdin = strings.NewReader(in)
		cmd.Env = append(cmd.Environ(), "HOME="+t.TempDir())
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("nix key: %v", err)
		}
		return strings.TrimSpace(string(out))
	}
	theirs, err := ParseSecretKey(nixKey("", "generate-secret", "--key-name", "real-1"))
	if err != nil {
		t.Fatal(err)
	}
	ours, err := GenerateKey("ours-1")
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range []SecretKey{theirs, ours} {
		if got := nixKey(k.Text(), "convert-secret-to-public"); got != k.Public().String() {
			t.Errorf("the public key is %s, and %s to Nix", k.Public(), got)
		}
	}
}
