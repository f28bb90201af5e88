package logline

import (
	"bytes"

	"github.com/kilnbuild/kiln/nix/jsonvalue"
)

// MaxLine is the length in bytes beyond which a line is not read.
const MaxLine = 1 << 20

// An error of Nix has its trace in the message, as objects in an array.
var limits = jsonvalue.Limits{Bytes: MaxLine, Values: 1 << 14, Depth: 16}

// Parse reads a line, with or without the newline that ends it. It is false for
// a line that is no message, and for one that is damaged: both are then text
// like any other. The message shares no memory with line.
func Parse(line []byte) (Message, bool) {
	text, ok := bytes.CutPrefix(line, []byte(Prefix))
	if !ok || len(text) > MaxLine {
		return Message{}, false
	}
	v, err := jsonvalue.Parse(string(text), limits)
	if err != nil {
		return Message{}, false
	}
	r := reader{object: v}
	m := r.message()
	return m, !r.bad
}

// reader takes the members out of a line's object. It goes on after something
// that is not as it should be, and then is bad.
type reader struct {
	object jsonvalue.Value
	bad    bool
}

func (r *reader) message() Message {
	switch name := r.text("action"); name {
	case "start":
		return Message{
			Action: Start, ID: r.number("id"), Parent: r.optional("parent"), Level: r.level(),
			Type: Activity(r.number("type")), Text: r.text("text"), Fields: r.fields(),
		}
	case "stop":
		return Message{Action: Stop, ID: r.number("id")}
	case "result":
		return Message{Action: Result, ID: r.number("id"), Result: Outcome(r.number("type")), Fields: r.fields()}
	case "msg":
		raw, _ := r.object.Get("raw_msg")
		return Message{Action: Msg, Level: r.level(), Text: r.text("msg"), Raw: raw.Str()}
	case "setPhase":
		return Message{Action: SetPhase, Text: r.text("phase")}
	}
	r.bad = true
	return Message{}
}

func (r *reader) text(key string) string {
	v, _ := r.object.Get(key)
	s, err := v.AsString()
	r.bad = r.bad || err != nil
	return s
}

func (r *reader) number(key string) uint64 {
	v, _ := r.object.Get(key)
	r.bad = r.bad || v.Kind() != jsonvalue.Unsigned
	return v.Uint64()
}

func (r *reader) optional(key string) uint64 {
	if _, ok := r.object.Get(key); !ok {
		return 0
	}
	return r.number(key)
}

// level takes what is beyond the last level as the last.
func (r *reader) level() Level {
	return Level(min(r.number("level"), uint64(Vomit)))
}

func (r *reader) fields() []Field {
	list, _ := r.object.Get("fields")
	if list.Kind() != jsonvalue.Array && list.Kind() != jsonvalue.Null {
		r.bad = true
		return nil
	}
	var fields []Field
	for _, v := range list.Elements() {
		switch v.Kind() {
		case jsonvalue.String:
			fields = append(fields, Text(v.Str()))
		case jsonvalue.Unsigned:
			fields = append(fields, Int(v.Uint64()))
		default:
			r.bad = true
		}
	}
	return fields
}
