package tracing

import (
	"encoding/hex"
	"math/rand/v2"
	"strings"
)

// A Context is a place in a trace, as W3C Trace Context has it
// (www.w3.org/TR/trace-context). The zero value is none.
type Context struct {
	trace   traceID
	span    spanID
	sampled bool
	state   string // tracestate, passed on as it came
}

type (
	traceID [16]byte
	spanID  [8]byte
)

// Valid tells whether there is a trace.
func (c Context) Valid() bool { return c.trace != traceID{} && c.span != spanID{} }

// maxState is how long a tracestate may be: what every implementation has to pass on.
const maxState = 512

// Parse reads the headers traceparent and tracestate. What is no context is none, as the
// recommendation wants it.
func Parse(parent, state string) Context {
	parts := strings.Split(parent, "-")
	// Later versions may have more parts; version ff is none.
	if len(parts) < 4 || len(parts[0]) != 2 || parts[0] == "ff" || parts[0] == "00" && len(parts) != 4 {
		return Context{}
	}
	var version, flags [1]byte
	var c Context
	for i, to := range [][]byte{version[:], c.trace[:], c.span[:], flags[:]} {
		if !lowerHex(parts[i]) || len(parts[i]) != 2*len(to) {
			return Context{}
		}
		hex.Decode(to, []byte(parts[i]))
	}
	if !c.Valid() {
		return Context{}
	}
	c.sampled = flags[0]&1 != 0
	unprintable := func(r rune) bool { return r < ' ' || r > '~' }
	if len(state) <= maxState && strings.IndexFunc(state, unprintable) < 0 {
		c.state = state
	}
	return c
}

// State is the header tracestate, "" for none.
func (c Context) State() string { return c.state }

func lowerHex(text string) bool {
	return strings.IndexFunc(text, func(r rune) bool { return (r < '0' || r > '9') && (r < 'a' || r > 'f') }) < 0
}

// String is the header traceparent of the context, "" if it is none.
func (c Context) String() string {
	if !c.Valid() {
		return ""
	}
	flags := "00"
	if c.sampled {
		flags = "01"
	}
	return "00-" + c.trace.String() + "-" + c.span.String() + "-" + flags
}

func (t traceID) String() string { return hex.EncodeToString(t[:]) }

// String is "" for no span.
func (s spanID) String() string {
	if s == (spanID{}) {
		return ""
	}
	return hex.EncodeToString(s[:])
}

func newTrace() (t traceID) {
	for t == (traceID{}) {
		fill(t[:])
	}
	return t
}

func newSpan() (s spanID) {
	for s == (spanID{}) {
		fill(s[:])
	}
	return s
}

// fill makes an id. Nobody has to be kept from guessing one.
func fill(id []byte) {
	for i := range id {
		id[i] = byte(rand.Uint32())
	}
}
