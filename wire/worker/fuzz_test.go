package worker

import (
	"bytes"
	"io"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/wire"
)

func FuzzHandshake(f *testing.F) {
	for _, v := range []Version{Oldest, Newest} {
		f.Add(encoded(f, Protocol{}, func(e *Encoder) {
			e.Uint64(clientMagic)
			e.Uint64(uint64(v))
			e.TextSet(Features())
			e.Uint64(1)
			e.Uint64(0)
			e.Uint64(0)
		}))
	}
	for _, s := range sessions(f) {
		f.Add(s.client)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		d, e := decoder(Protocol{}, bytes.NewReader(data)), encoder(Protocol{}, io.Discard)
		if err := AcceptHandshake(d, e, Server{Version: Newest, Features: Features()}); err == nil && (d.Version < Oldest || d.Version > Newest) {
			t.Errorf("agreed on version %v", d.Version)
		}
	})
}

// FuzzRequest checks that what can be read is the same when it is written and read
// again.
func FuzzRequest(f *testing.F) {
	for i, p := range protocols() {
		for _, r := range requests(f, p) {
			f.Add(uint8(i), encoded(f, p, func(e *Encoder) { WriteRequest(e, r) }))
		}
	}
	for _, s := range sessions(f) {
		s.requests(f, func(p Protocol, r Request) {
			for i, other := range protocols() {
				if other.Version == p.Version {
					f.Add(uint8(i), encoded(f, p, func(e *Encoder) { WriteRequest(e, r) }))
				}
			}
		})
	}
	f.Fuzz(func(t *testing.T, which uint8, data []byte) {
		all := protocols()
		p := all[int(which)%len(all)]
		r, err := ReadRequest(decoder(p, bytes.NewReader(data)))
		if err != nil {
			return
		}
		again, err := ReadRequest(decoder(p, bytes.NewReader(encoded(t, p, func(e *Encoder) { WriteRequest(e, r) }))))
		if err != nil {
			t.Fatalf("%v: %v", r.Op(), err)
		}
		if d := cmp.Diff(r, again, cmpopts.EquateEmpty(), cmp.AllowUnexported(nix.Hash{})); d != "" {
			t.Errorf("%v (-first +second):\n%s", r.Op(), d)
		}
	})
}

func FuzzMessages(f *testing.F) {
	for _, v := range []Version{Oldest, Newest} {
		f.Add(v == Newest, encoded(f, Protocol{Version: v}, func(e *Encoder) {
			e.Next("hello\n")
			e.AskForData(4)
			e.Error(&Error{Message: "no", Traces: []string{"while"}})
		}))
	}
	for _, s := range sessions(f) {
		_, server := s.afterHandshake()
		f.Add(true, server)
	}
	f.Fuzz(func(t *testing.T, newest bool, data []byte) {
		p := Protocol{Dir: nix.DefaultStoreDir, Version: Oldest}
		if newest {
			p.Version = Newest
		}
		ReadMessages(decoder(p, bytes.NewReader(data)), encoder(p, io.Discard), Listener{})
	})
}

func FuzzReplies(f *testing.F) {
	for _, p := range protocols() {
		f.Add(encoded(f, p, func(e *Encoder) {
			e.KeyedBuildResults([]nix.BuildResult{{Path: nix.Opaque(pathA)}})
		}))
	}
	f.Add(encoded(f, Protocol{Dir: nix.DefaultStoreDir}, func(e *Encoder) { e.PathInfo(info()) }))
	for _, s := range sessions(f) {
		_, server := s.afterHandshake()
		f.Add(server[min(8, len(server)):])
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		for _, p := range protocols() {
			for _, read := range []func(*Decoder){
				func(d *Decoder) { d.KeyedBuildResults() },
				func(d *Decoder) { d.PathInfo() },
				func(d *Decoder) { d.LegacyRealisations("") },
				func(d *Decoder) { d.Missing() },
			} {
				read(decoder(p, bytes.NewReader(data)))
			}
		}
	})
}

func FuzzObjects(f *testing.F) {
	var b bytes.Buffer
	w := NewObjectWriter(&b, nix.DefaultStoreDir, 1)
	w.Next(info())
	w.Close()
	f.Add(b.Bytes())
	f.Fuzz(func(t *testing.T, data []byte) {
		r := NewObjectReader(bytes.NewReader(data), nix.DefaultStoreDir, wire.Limits{})
		for {
			if _, _, err := r.Next(); err != nil {
				break
			}
		}
	})
}
