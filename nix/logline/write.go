package logline

import (
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/kilnbuild/kiln/nix/jsonvalue"
)

// Append appends m as Nix writes it, with the newline: members sorted by name,
// no white space. Bytes that are not UTF-8 become U+FFFD. A message whose Action
// is none of the five is a mistake of the caller, and appends nothing.
func (m Message) Append(dst []byte) []byte {
	switch m.Action {
	case Start:
		dst = open(dst, Start)
		dst = appendFields(dst, m.Fields)
		dst = appendInt(append(dst, `,"id":`...), m.ID)
		dst = appendInt(append(dst, `,"level":`...), uint64(m.Level))
		dst = appendInt(append(dst, `,"parent":`...), m.Parent)
		dst = appendText(append(dst, `,"text":`...), m.Text)
		dst = appendInt(append(dst, `,"type":`...), uint64(m.Type))
	case Stop:
		dst = appendInt(append(open(dst, Stop), `,"id":`...), m.ID)
	case Result:
		dst = appendFields(open(dst, Result), m.Fields)
		dst = appendInt(append(dst, `,"id":`...), m.ID)
		dst = appendInt(append(dst, `,"type":`...), uint64(m.Result))
	case Msg:
		dst = open(dst, Msg)
		if m.Raw != "" {
			dst = append(dst, `,"column":null,"file":null`...)
		}
		dst = appendInt(append(dst, `,"level":`...), uint64(m.Level))
		if m.Raw != "" {
			dst = append(dst, `,"line":null`...)
		}
		dst = appendText(append(dst, `,"msg":`...), m.Text)
		if m.Raw != "" {
			dst = appendText(append(dst, `,"raw_msg":`...), m.Raw)
		}
	case SetPhase:
		dst = appendText(append(open(dst, SetPhase), `,"phase":`...), m.Text)
	default:
		return dst
	}
	return append(dst, "}\n"...)
}

func open(dst []byte, a Action) []byte {
	dst = append(dst, Prefix+`{"action":"`...)
	dst = append(dst, actions[a]...)
	return append(dst, '"')
}

func appendInt(dst []byte, n uint64) []byte { return strconv.AppendUint(dst, n, 10) }

func appendText(dst []byte, s string) []byte {
	if !utf8.ValidString(s) {
		s = strings.ToValidUTF8(s, "\uFFFD")
	}
	dst, _ = jsonvalue.NewString(s).AppendText(dst) // no error for what is UTF-8
	return dst
}

func appendFields(dst []byte, fields []Field) []byte {
	if len(fields) == 0 {
		return dst
	}
	dst = append(dst, `,"fields":[`...)
	for i, f := range fields {
		if i > 0 {
			dst = append(dst, ',')
		}
		if f.IsInt {
			dst = appendInt(dst, f.Int)
		} else {
			dst = appendText(dst, f.Text)
		}
	}
	return append(dst, ']')
}
