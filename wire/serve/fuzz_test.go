package serve

import (
	"bytes"
	"io"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/wire"
)

func FuzzHandshake(f *testing.F) {
	for _, v := range versions() {
		f.Add(encoded(f, v, func(e *Encoder) { e.Uint64(clientMagic); e.Uint64(uint64(v)) }))
		f.Add(encoded(f, v, func(e *Encoder) { e.Uint64(serverMagic); e.Uint64(uint64(v)) }))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, greet := range []func(*Decoder, *Encoder, Version) error{AcceptHandshake, Handshake} {
			d := NewDecoder(bytes.NewReader(data), nix.DefaultStoreDir, wire.Limits{})
			if err := greet(d, NewEncoder(io.Discard, nix.DefaultStoreDir), Newest); err == nil && (d.Version < Oldest || d.Version > Newest) {
				t.Errorf("agreed on version %v", d.Version)
			}
		}
	})
}

// FuzzRequest checks that what can be read is the same when it is written and read
// again.
func FuzzRequest(f *testing.F) {
	for i, v := range versions() {
		for _, r := range requests(v) {
			f.Add(uint8(i), encoded(f, v, func(e *Encoder) { WriteRequest(e, r) }))
		}
	}
	f.Fuzz(func(t *testing.T, which uint8, data []byte) {
		all := versions()
		v := all[int(which)%len(all)]
		r, err := ReadRequest(decoder(v, bytes.NewReader(data)))
		if err != nil {
			return
		}
		again, err := ReadRequest(decoder(v, bytes.NewReader(encoded(t, v, func(e *Encoder) { WriteRequest(e, r) }))))
		if err != nil {
			t.Fatalf("%v: %v", r.Command(), err)
		}
		if diff := cmp.Diff(r, again, equal); diff != "" {
			t.Errorf("%v (-first +second):\n%s", r.Command(), diff)
		}
	})
}

func FuzzReplies(f *testing.F) {
	for i, v := range versions() {
		f.Add(uint8(i), encoded(f, v, func(e *Encoder) { e.Info(info()); e.EndInfos() }))
		f.Add(uint8(i), encoded(f, v, func(e *Encoder) { e.BuildStatus(BuildStatus{Exit: 1, Message: "x"}) }))
		f.Add(uint8(i), encoded(f, v, func(e *Encoder) { e.BuildResult(&nix.BuildResult{Status: nix.StatusBuilt}) }))
	}
	f.Fuzz(func(t *testing.T, which uint8, data []byte) {
		all := versions()
		v := all[int(which)%len(all)]
		infos := decoder(v, bytes.NewReader(data))
		for infos.Info() != nil {
		}
		decoder(v, bytes.NewReader(data)).BuildStatus()
		decoder(v, bytes.NewReader(data)).BuildResult(drvA)
	})
}
