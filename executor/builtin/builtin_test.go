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
