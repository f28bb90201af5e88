package builtin

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestRequestForm(t *testing.T) {
	r := &Request{Builder: "builtin:fetchurl", Env: map[string]string{"a": "b\x00\n"}, Outputs: map[string]string{"out": "/x"}, Fixed: &FixedHash{Flat: true}}
	var text strings.Builder
	if err := r.Encode(&text); err != nil {
		t.Fatal(err)
	}
	got, err := DecodeRequest(strings.NewReader(text.String()))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(r, got); diff != "" {
		t.Error(diff)
	}
}

func FuzzDecodeRequest(f *testing.F) {
	f.Add(`{"Builder":"builtin:buildenv","Env":{"a":"b"}}`)
	f.Add(`{"Builder":1}`)
	f.Add(`{"Other":""}`)
	f.Fuzz(func(t *testing.T, text string) {
		r, err := DecodeRequest(strings.NewReader(text))
		if (r == nil) == (err == nil) {
			t.Errorf("got %v, %v", r, err)
		}
	})
}

func TestFindCredentials(t *testing.T) {
	for _, test := range []struct {
		netrc, host string
		want        credentials
		found       bool
	}{
		{"machine a login u password p", "a", credentials{"u", "p"}, true},
		{"machine a login u password p", "A", credentials{"u", "p"}, true},
		{"machine a login u password p", "b", credentials{}, false},
		{"machine a\n  login u # who\n  password\n p\nmachine b login v password q", "a", credentials{"u", "p"}, true},
		{"machine a login u password p\nmachine b login v password q", "b", credentials{"v", "q"}, true},
		{"machine a login u password p\ndefault login d password e", "x", credentials{"d", "e"}, true},
		{"machine a account x login u password p", "a", credentials{"u", "p"}, true},
		{"macdef init\nmachine a login u password p\n\nmachine a login v password q", "a", credentials{"v", "q"}, true},
		{"machine a login u password p\nmachine a login v password q", "a", credentials{"u", "p"}, true},
		{"machine", "a", credentials{}, false},
		{"machine a", "a", credentials{}, false},
		{"", "a", credentials{}, false},
	} {
		if got, found := findCredentials(test.netrc, test.host); got != test.want || found != test.found {
			t.Errorf("%q, host %s: got %v, %v", test.netrc, test.host, got, found)
		}
	}
}

func FuzzFindCredentials(f *testing.F) {
	f.Add("machine a login u password p", "a")
	f.Add("macdef x\n\ndefault login\n u", "b")
	f.Fuzz(func(t *testing.T, netrc, host string) { findCredentials(netrc, host) })
}
