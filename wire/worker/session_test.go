package worker

import (
	"bytes"
	"encoding/binary"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/wire"
)

// A session is what a real client and a daemon have said to each other: the package daemon
// records them, in its test of real clients.
type session struct {
	name           string
	client, server []byte
}

// sessions are those in testdata.
func sessions(t testing.TB) []session {
	t.Helper()
	files, err := filepath.Glob("testdata/sessions/*.client")
	if err != nil || len(files) < 20 {
		t.Fatalf("%d sessions, %v", len(files), err)
	}
	var all []session
	for _, file := range files {
		name := strings.TrimSuffix(file, ".client")
		s := session{name: filepath.Base(name)}
		for end, to := range map[string]*[]byte{".client": &s.client, ".server": &s.server} {
			if *to, err = os.ReadFile(name + end); err != nil {
				t.Fatal(err)
			}
		}
		all = append(all, s)
	}
	return all
}

// requests reads all that the client says, and calls each with every request.
func (s *session) requests(t testing.TB, each func(p Protocol, r Request)) {
	t.Helper()
	d := decoder(Protocol{Dir: nix.DefaultStoreDir}, bytes.NewReader(s.client))
	if err := AcceptHandshake(d, encoder(Protocol{}, io.Discard), Server{Version: Newest, Features: Features()}); err != nil {
		t.Fatalf("%s: %v", s.name, err)
	}
	for d.Wait() == nil {
		r, err := ReadRequest(d)
		if err != nil {
			t.Fatalf("%s: %v", s.name, err)
		}
		each(d.Protocol, r)
		if d.Framed(r) {
			if err := wire.NewFramedReader(d.Reader).Drain(); err != nil {
				t.Fatalf("%s: %v: %v", s.name, r.Op(), err)
			}
		}
	}
}

// afterHandshake are the parts of both sides behind the handshake. Clients have no features.
func (s *session) afterHandshake() (client, server []byte) {
	word := func(b []byte, i int) int { return int(binary.LittleEndian.Uint64(b[i:])) }
	text := func(i int) int { return i + 8 + (word(s.server, i)+7)&^7 }
	minor := word(s.client, 8) & 0xff
	c, v := 32, 16
	if minor >= 38 {
		features := word(s.server, v)
		c, v = c+8, v+8
		for range features {
			v = text(v)
		}
	}
	v = text(v)
	if minor >= 35 {
		v += 8
	}
	return s.client[c:], s.server[v:]
}

// TestSessions reads what real clients say, and the first messages of what they are told.
func TestSessions(t *testing.T) {
	seen := map[Op]bool{}
	for _, s := range sessions(t) {
		var p Protocol
		s.requests(t, func(spoken Protocol, r Request) {
			p = spoken
			seen[r.Op()] = true
			// What was understood says the same when it is written.
			if again, err := ReadRequest(decoder(p, bytes.NewReader(encoded(t, p, func(e *Encoder) { WriteRequest(e, r) })))); err != nil || again.Op() != r.Op() {
				t.Errorf("%s: %v: %v", s.name, r.Op(), err)
			}
		})
		client, server := s.afterHandshake()
		if len(client) > 0 {
			if _, err := ReadRequest(decoder(p, bytes.NewReader(client))); err != nil {
				t.Errorf("%s: it begins with: %v", s.name, err)
			}
		}
		if err := ReadMessages(decoder(p, bytes.NewReader(server)), encoder(p, io.Discard), Listener{}); err != nil {
			t.Errorf("%s: it is told: %v", s.name, err)
		}
	}
	for _, op := range []Op{OpSetOptions, OpQueryPathInfo, OpAddToStore, OpNarFromPath, OpQueryMissing} {
		if !seen[op] {
			t.Errorf("no session has %v", op)
		}
	}
}
