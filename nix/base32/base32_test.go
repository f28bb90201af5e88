package base32

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"math/big"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// Values that real Nix printed.
var golden = []struct{ hex, text string }{
	{"", ""},
	{hexSHA256("nix-output:out"), "1rz4g4znpzjwh1xymhjpm42vipw92pr73vdgl6xs1hycac8kf2n9"},
	{"ae45042aef5b148835db02d045fe89b4c09ff9e476dab001a14bc0322d3f2093", "14r07wnk5h2bl40v1nknwkwrzh5li7z4bl02vcsqh52vxwm08idf"},
	{"ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad", "1b8m03r63zqhnjf7l5wnldhh7c134ap5vpj0850ymkq1iyzicy5s"},
	{"a9993e364706816aba3e25717850c26c9cd0d89d", "kpcd173cq987hw957sx6m0868wv3x6d9"},
	{"1f", "0z"},
	{"ff", "7z"},
	{"00", "00"},
}

func hexSHA256(s string) string {
	sum := sha256.Sum256([]byte(s))
	return hex.EncodeToString(sum[:])
}

// naive is the definition: character k from the end holds bits 5k to 5k+4 of
// the number whose lowest byte comes first.
func naive(b []byte) string {
	le := slices.Clone(b)
	slices.Reverse(le)
	v := new(big.Int).SetBytes(le)
	out := make([]byte, (len(b)*8+4)/5)
	for k := range out {
		digit := new(big.Int).Rsh(v, uint(5*k))
		out[len(out)-1-k] = Alphabet[digit.Uint64()&31]
	}
	return string(out)
}

func TestGolden(t *testing.T) {
	for _, g := range golden {
		b, err := hex.DecodeString(g.hex)
		if err != nil {
			t.Fatal(err)
		}
		if got := EncodeToString(b); got != g.text {
			t.Errorf("encode %s: got %s, want %s", g.hex, got, g.text)
		}
		back, err := DecodeString(g.text)
		if err != nil || !bytes.Equal(back, b) {
			t.Errorf("decode %s: got %x, %v; want %s", g.text, back, err, g.hex)
		}
	}
}

func TestAgainstDefinition(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for n := range 130 {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(rng.Uint32())
		}
		text := naive(b)
		if len(text) != EncodedLen(n) {
			t.Fatalf("EncodedLen(%d) = %d, want %d", n, EncodedLen(n), len(text))
		}
		if DecodedLen(len(text)) != n {
			t.Fatalf("DecodedLen(%d) = %d, want %d", len(text), DecodedLen(len(text)), n)
		}
		if got := string(AppendEncode([]byte("prefix"), b)); got != "prefix"+text {
			t.Fatalf("%d bytes: got %q, want prefix%s", n, got, text)
		}
		got, err := AppendDecode([]byte("prefix"), []byte(text))
		if err != nil || string(got) != "prefix"+string(b) {
			t.Fatalf("decode %s: got %q, %v", text, got, err)
		}
	}
}

func TestLengths(t *testing.T) {
	for _, c := range []struct{ bytes, chars int }{{16, 26}, {20, 32}, {32, 52}, {64, longest}} {
		if got := EncodedLen(c.bytes); got != c.chars {
			t.Errorf("EncodedLen(%d) = %d, want %d", c.bytes, got, c.chars)
		}
	}
}

func TestDecodeRefuses(t *testing.T) {
	valid := "1rz4g4znpzjwh1xymhjpm42vipw92pr73vdgl6xs1hycac8kf2n9"
	for name, c := range map[string]struct{ text, want string }{
		"letter e":         {"e" + valid[1:], `invalid character 'e' at position 0`},
		"letter u at end":  {valid[:51] + "u", `invalid character 'u' at position 51`},
		"capital":          {valid[:20] + "A" + valid[21:], `invalid character 'A' at position 20`},
		"byte 0xff":        {valid[:30] + "\xff" + valid[31:], `position 30`},
		"NUL":              {"0\x00", `invalid character '\x00' at position 1`},
		"high bits":        {"2" + valid[1:], `bits beyond the last byte`},
		"high bits, short": {"8z", `bits beyond the last byte`},
		"one character":    {"0", `no encoding is 1 characters long`},
		"three":            {"000", `no encoding is 3 characters long`},
		"six":              {"000000", `no encoding is 6 characters long`},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := DecodeString(c.text)
			if err == nil || !strings.Contains(err.Error(), c.want) || got != nil {
				t.Errorf("got %x, error %v; want an error with %q", got, err, c.want)
			}
			dst := []byte("kept")
			if back, err := AppendDecode(dst, []byte(c.text)); err == nil || string(back) != "kept" {
				t.Errorf("AppendDecode: got %q, %v", back, err)
			}
		})
	}
}

func TestValidChar(t *testing.T) {
	for c := range 256 {
		if got, want := ValidChar(byte(c)), strings.IndexByte(Alphabet, byte(c)) >= 0; got != want {
			t.Errorf("ValidChar(%#x) = %v, want %v", c, got, want)
		}
	}
}

func TestAllocations(t *testing.T) {
	src, dst := make([]byte, 32), make([]byte, 0, 64)
	text := []byte(EncodeToString(src))
	if n := testing.AllocsPerRun(100, func() {
		dst = AppendEncode(dst[:0], src)
		dst, _ = AppendDecode(dst[:0], text)
	}); n != 0 {
		t.Errorf("%v allocations for the append forms, want none", n)
	}
	var s string
	if n := testing.AllocsPerRun(100, func() { s = EncodeToString(src) }); n != 1 {
		t.Errorf("%v allocations for %s, want 1", n, s)
	}
}

func FuzzDecode(f *testing.F) {
	for _, g := range golden {
		f.Add([]byte(g.text))
	}
	f.Add([]byte("8z"))
	f.Add([]byte("0\xff"))
	f.Add([]byte("000"))
	f.Fuzz(func(t *testing.T, text []byte) {
		b, err := DecodeString(string(text))
		if err != nil {
			return
		}
		if again := EncodeToString(b); again != string(text) {
			t.Fatalf("%q decodes to %x, which encodes to %q", text, b, again)
		}
		if want := naive(b); want != string(text) {
			t.Fatalf("%x encodes to %q, by definition %q", b, text, want)
		}
	})
}

func BenchmarkEncode(b *testing.B) {
	src, dst := make([]byte, 32), make([]byte, 0, 64)
	b.SetBytes(32)
	for b.Loop() {
		dst = AppendEncode(dst[:0], src)
	}
}

func BenchmarkDecode(b *testing.B) {
	text, dst := []byte(EncodeToString(make([]byte, 32))), make([]byte, 0, 64)
	b.SetBytes(32)
	for b.Loop() {
		dst, _ = AppendDecode(dst[:0], text)
	}
}
