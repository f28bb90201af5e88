package hook

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/kilnbuild/kiln/nix/logline"
)

var heardLines = []struct {
	at   stage
	line string
	want heard
	next stage
}{
	{asked, "# decline", heard{kind: aReply, text: "decline", verdict: Declined}, quiet},
	{asked, "# decline-permanently", heard{kind: aReply, text: "decline-permanently", verdict: DeclinedForGood}, quiet},
	{asked, "# postpone", heard{kind: aReply, text: "postpone", verdict: Postponed}, quiet},
	{asked, "# accept", heard{kind: aReply, text: "accept", verdict: Accepted}, accepted},
	{asked, "# accept ", heard{kind: aReply, text: "accept "}, quiet},
	{asked, "# ", heard{kind: aReply}, quiet},
	{asked, "#accept", heard{kind: aText, text: "#accept"}, asked},
	{asked, "", heard{kind: aText}, asked},
	{asked, `@nix {"action":"stop","id":1}`, heard{kind: aMessage, message: logline.Message{Action: logline.Stop, ID: 1}}, asked},
	{asked, `@nix {"action":`, heard{kind: aText, text: `@nix {"action":`}, asked},
	{quiet, "# accept", heard{kind: aStray, text: "accept"}, quiet},
	{quiet, "late", heard{kind: aText, text: "late"}, quiet},
	{accepted, "ssh://m", heard{kind: aMachine, text: "ssh://m"}, building},
	{accepted, "# m", heard{kind: aMachine, text: "# m"}, building},
	{accepted, `@nix {"action":"stop","id":1}`, heard{kind: aMessage, message: logline.Message{Action: logline.Stop, ID: 1}}, accepted},
	{building, "# decline", heard{kind: aText, text: "# decline"}, building},
}

func TestHear(t *testing.T) {
	for _, tt := range heardLines {
		got, next := hear(tt.at, []byte(tt.line))
		if diff := cmp.Diff(tt.want, got, cmp.AllowUnexported(heard{})); diff != "" || next != tt.next {
			t.Errorf("%q at %d leads to %d (-want +got):\n%s", tt.line, tt.at, next, diff)
		}
	}
}

// FuzzHear wants that a question has one reply at most, that a machine is named
// once and only after the hook accepted, and that no text is lost.
func FuzzHear(f *testing.F) {
	f.Add("thinking\n# decline\n# late\n", false)
	f.Add("# accept\n@nix {\"action\":\"stop\",\"id\":1}\nssh://m\nlog\n", false)
	f.Add("# accept\r\nssh://m\n# postpone", true)
	f.Fuzz(func(t *testing.T, text string, again bool) {
		at, questions := asked, 1
		counts := map[heardKind]int{}
		var acceptance bool
		l := lines{max: 1 << 10, cut: truncate, take: func(line []byte) error {
			var h heard
			h, at = hear(at, line)
			counts[h.kind]++
			acceptance = acceptance || h.verdict == Accepted
			switch h.kind {
			case aReply, aStray:
				if string(line) != replyMark+h.text {
					t.Fatalf("%q became the reply %q", line, h.text)
				}
				if at == quiet && again && h.kind == aReply {
					at = asked
					questions++
				}
			case aText, aMachine:
				if string(line) != h.text {
					t.Fatalf("%q became %q", line, h.text)
				}
			case aMessage:
				if !strings.HasPrefix(string(line), logline.Prefix) {
					t.Fatalf("%q became a message", line)
				}
			}
			return nil
		}}
		l.Write([]byte(text))
		l.flush()
		if counts[aReply] > questions || counts[aMachine] > 1 || counts[aMachine] == 1 && !acceptance {
			t.Fatalf("%q has %v", text, counts)
		}
	})
}
