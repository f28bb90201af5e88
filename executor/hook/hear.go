package hook

import (
	"bytes"

	"github.com/kilnbuild/kiln/nix/logline"
)

// A stage is how far a build hook is.
type stage uint8

const (
	quiet    stage = iota // nothing was asked
	asked                 // whether it takes a build
	accepted              // it said so, and is to name the machine
	building
)

// heard is what one line on a build hook's error output says.
type heard struct {
	kind    heardKind
	text    string          // of all but messages; of replies, without the sign before them
	verdict Verdict         // of a reply, 0 for one that is none
	message logline.Message // of a message
}

type heardKind uint8

const (
	aText    heardKind = iota // something for a person to read
	aMessage                  // something for the program, or for a person who wants to know more
	aReply                    // to what was asked
	aStray                    // a reply to nothing
	aMachine                  // that accepted
)

// replyMark begins the lines that are replies.
const replyMark = "# "

var replies = map[string]Verdict{
	"decline":             Declined,
	"decline-permanently": DeclinedForGood,
	"postpone":            Postponed,
	"accept":              Accepted,
}

// hear says what a line means to who is at the given stage, and at which stage
// that leaves them. Messages may come at any stage.
func hear(at stage, line []byte) (heard, stage) {
	if m, ok := logline.Parse(line); ok {
		return heard{kind: aMessage, message: m}, at
	}
	reply, isReply := bytes.CutPrefix(line, []byte(replyMark))
	switch {
	case at == accepted:
		return heard{kind: aMachine, text: string(line)}, building
	case at == asked && isReply:
		h := heard{kind: aReply, text: string(reply), verdict: replies[string(reply)]}
		if h.verdict == Accepted {
			return h, accepted
		}
		return h, quiet
	case at == quiet && isReply:
		return heard{kind: aStray, text: string(reply)}, quiet
	}
	return heard{kind: aText, text: string(line)}, at
}
