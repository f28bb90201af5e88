package logline_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/kilnbuild/kiln/nix/logline"
)

// lines are what Nix 2.34 prints, byte for byte, and what they say.
var lines = []struct {
	line string
	want logline.Message
}{
	{
		`@nix {"action":"start","fields":["/nix/store/g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-a.drv","",1,1],"id":32482718089218,"level":3,"parent":7,"text":"building '/nix/store/g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-a.drv'","type":105}`,
		logline.Message{
			Action: logline.Start, ID: 32482718089218, Parent: 7, Level: logline.Info, Type: logline.Build,
			Text: "building '/nix/store/g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-a.drv'",
			Fields: []logline.Field{
				logline.Text("/nix/store/g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-a.drv"), logline.Text(""), logline.Int(1), logline.Int(1),
			},
		},
	},
	{
		`@nix {"action":"start","id":1,"level":7,"parent":0,"text":"","type":104}`,
		logline.Message{Action: logline.Start, ID: 1, Level: logline.Vomit, Type: logline.Builds},
	},
	{`@nix {"action":"stop","id":18446744073709551615}`, logline.Message{Action: logline.Stop, ID: 1<<64 - 1}},
	{
		`@nix {"action":"result","fields":["tab\tquote\" back\\ bell\u0007 é"],"id":2,"type":101}`,
		logline.Message{
			Action: logline.Result, ID: 2, Result: logline.BuildLogLine,
			Fields: []logline.Field{logline.Text("tab\tquote\" back\\ bell\a é")},
		},
	},
	{
		`@nix {"action":"result","fields":[0,1,0,0],"id":2,"type":105}`,
		logline.Message{
			Action: logline.Result, ID: 2, Result: logline.Progress,
			Fields: []logline.Field{logline.Int(0), logline.Int(1), logline.Int(0), logline.Int(0)},
		},
	},
	{`@nix {"action":"msg","level":1,"msg":"\u001b[35;1mwarning:\u001b[0m x"}`, logline.Message{Action: logline.Msg, Level: logline.Warn, Text: "\x1b[35;1mwarning:\x1b[0m x"}},
	{
		`@nix {"action":"msg","column":null,"file":null,"level":0,"line":null,"msg":"error: x","raw_msg":"x"}`,
		logline.Message{Action: logline.Msg, Level: logline.Error, Text: "error: x", Raw: "x"},
	},
	{`@nix {"action":"setPhase","phase":"unpackPhase"}`, logline.Message{Action: logline.SetPhase, Text: "unpackPhase"}},
}

func TestLines(t *testing.T) {
	for _, tt := range lines {
		got, ok := logline.Parse([]byte(tt.line))
		if !ok {
			t.Errorf("Parse(%s): no message", tt.line)
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("Parse(%s) (-want +got):\n%s", tt.line, diff)
		}
		if got := string(tt.want.Append([]byte("before"))); got != "before"+tt.line+"\n" {
			t.Errorf("Append gives\n%swant\nbefore%s", got, tt.line)
		}
	}
}

// TestTaken has lines that Nix takes as well, though it does not write them.
func TestTaken(t *testing.T) {
	for line, want := range map[string]logline.Message{
		"@nix {\"action\":\"setPhase\",\"phase\":\"x\"}\r\n":                               {Action: logline.SetPhase, Text: "x"},
		`@nix   { "phase" : "a", "phase" : "b", "action" : "setPhase" } `:                  {Action: logline.SetPhase, Text: "b"},
		`@nix {"action":"start","id":1,"level":99,"text":"","type":777,"fields":null}`:     {Action: logline.Start, ID: 1, Level: logline.Vomit, Type: 777},
		`@nix {"action":"msg","level":0,"msg":"m","trace":[{"raw_msg":"a","line":{}}]}`:    {Action: logline.Msg, Text: "m"},
		`@nix {"action":"result","id":1,"type":109,"fields":["x"],"new":{"a":[1.5,null]}}`: {Action: logline.Result, ID: 1, Result: 109, Fields: []logline.Field{logline.Text("x")}},
	} {
		got, ok := logline.Parse([]byte(line))
		if diff := cmp.Diff(want, got); diff != "" || !ok {
			t.Errorf("Parse(%q) = %v (-want +got):\n%s", line, ok, diff)
		}
	}
}

func TestNoMessage(t *testing.T) {
	for _, line := range []string{
		"",
		"@nix",
		"@nix ",
		"@nix x",
		"@nix {}",
		"@nix null",
		"@nix []",
		"@nix-store {}",
		` @nix {"action":"stop","id":1}`,
		`{"action":"stop","id":1}`,
		`@nix {"action":"stop","id":1}{}`,
		`@nix {"action":"stop"}`,
		`@nix {"action":"stop","id":-1}`,
		`@nix {"action":"stop","id":"1"}`,
		`@nix {"action":"stop","id":18446744073709551616}`,
		`@nix {"action":"dance"}`,
		`@nix {"action":1}`,
		`@nix {"action":"setPhase","phase":1}`,
		`@nix {"action":"setPhase"}`,
		"@nix {\"action\":\"setPhase\",\"phase\":\"\xff\"}",
		`@nix {"action":"msg","level":0}`,
		`@nix {"action":"msg","msg":"m"}`,
		`@nix {"action":"start","id":1,"level":0,"type":1}`,
		`@nix {"action":"start","id":1,"level":0,"text":"","type":1,"parent":"x"}`,
		`@nix {"action":"result","id":1,"type":1,"fields":[[]]}`,
		`@nix {"action":"result","id":1,"type":1,"fields":[-1]}`,
		`@nix {"action":"result","id":1,"type":1,"fields":[1.5]}`,
		`@nix {"action":"result","id":1,"type":1,"fields":{"a":1}}`,
		`@nix {"action":"setPhase","phase":"` + strings.Repeat("x", logline.MaxLine) + `"}`,
		`@nix {"action":"setPhase","phase":"x","y":` + strings.Repeat("[", 100) + strings.Repeat("]", 100) + `}`,
		`@nix {"action":"setPhase","phase":"x","y":[` + strings.Repeat("1,", 1<<15) + `1]}`,
	} {
		if m, ok := logline.Parse([]byte(line)); ok {
			t.Errorf("Parse(%.80q) = %v", line, m)
		}
	}
}

func TestAppendBytes(t *testing.T) {
	got := logline.Message{Action: logline.SetPhase, Text: "a\xff\xfeb\n"}.Append(nil)
	if want := "@nix {\"action\":\"setPhase\",\"phase\":\"a\uFFFDb\\n\"}\n"; string(got) != want {
		t.Errorf("Append gives %q, want %q", got, want)
	}
	if got := (logline.Message{Action: 6}).Append(nil); len(got) > 0 {
		t.Errorf("an unknown action gives %q", got)
	}
}

// FuzzParse wants that what was read is written in a form that reads the same.
func FuzzParse(f *testing.F) {
	for _, tt := range lines {
		f.Add([]byte(tt.line))
	}
	f.Add([]byte(`@nix {"action":"start","id":1,"level":99,"text":"\ud83d\ude00","type":777,"fields":null}`))
	f.Add([]byte("@nix {\"action\":\"setPhase\",\"phase\":\"\xc3\"}"))
	f.Fuzz(func(t *testing.T, line []byte) {
		m, ok := logline.Parse(line)
		if !ok {
			return
		}
		text := m.Append(nil)
		if bytes.IndexByte(text, '\n') != len(text)-1 {
			t.Fatalf("%q is not one line", text)
		}
		again, ok := logline.Parse(text)
		if diff := cmp.Diff(m, again); !ok || diff != "" {
			t.Fatalf("%q reads as %q (-first +second):\n%s", line, text, diff)
		}
	})
}

func BenchmarkParse(b *testing.B) {
	line := []byte(lines[3].line)
	b.SetBytes(int64(len(line)))
	b.ReportAllocs()
	for b.Loop() {
		if _, ok := logline.Parse(line); !ok {
			b.Fatal("no message")
		}
	}
}

func BenchmarkAppend(b *testing.B) {
	var dst []byte
	b.ReportAllocs()
	for b.Loop() {
		dst = lines[3].want.Append(dst[:0])
	}
}
