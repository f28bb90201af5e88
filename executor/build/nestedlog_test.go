package build

import (
	"io"
	"testing"

	"github.com/kilnbuild/kiln/nix"
)

// lastEvent keeps the last event.
type lastEvent struct{ e nix.Event }

func (*lastEvent) BuildLog(nix.StorePath, []byte) {}
func (l *lastEvent) Event(e nix.Event)            { l.e = e }

// TestNestedWithin wants events of what builders ask for to say which builder asked: the
// one nearest to it.
func TestNestedWithin(t *testing.T) {
	var last lastEvent
	log := &sharedLog{all: io.Discard, kept: io.Discard}
	outer := &nestedLog{LogSink: &last, drv: "outer", log: log, lines: make(map[nix.StorePath][]byte)}
	inner := &nestedLog{LogSink: outer, drv: "inner", log: log, lines: make(map[nix.StorePath][]byte)}
	for _, c := range []struct {
		log    *nestedLog
		path   nix.StorePath
		within nix.StorePath
	}{{outer, "inner", "outer"}, {inner, "innermost", "inner"}, {outer, "outer", ""}} {
		c.log.Event(nix.Event{Kind: nix.EventStarted, Path: c.path})
		if last.e.Within != c.within {
			t.Errorf("'%s' is started within '%s', want '%s'", c.path, last.e.Within, c.within)
		}
	}
}
