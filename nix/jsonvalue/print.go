package jsonvalue

import (
	"fmt"
	"math"
	"strconv"
	"unicode/utf8"
)

// AppendText appends v in the form that Nix prints by default: keys sorted by
// their bytes, no white space, non-ASCII characters as they are, control
// characters escaped. The only error is a string that is not UTF-8, which JSON
// cannot hold.
func (v Value) AppendText(dst []byte) ([]byte, error) {
	var err error
	switch v.kind {
	case Null:
		return append(dst, "null"...), nil
	case Bool:
		return strconv.AppendBool(dst, v.num != 0), nil
	case Unsigned:
		return strconv.AppendUint(dst, v.num, 10), nil
	case Negative:
		return strconv.AppendInt(dst, int64(v.num), 10), nil
	case Float:
		f := v.float()
		if math.IsInf(f, 0) || math.IsNaN(f) {
			return append(dst, "null"...), nil
		}
		return appendFloat(dst, f), nil
	case String:
		return appendString(dst, v.str)
	}
	open, end := byte('['), byte(']')
	if v.kind == Object {
		open, end = '{', '}'
	}
	dst = append(dst, open)
	for i, e := range v.inner.elems {
		if i > 0 {
			dst = append(dst, ',')
		}
		if v.kind == Object {
			if dst, err = appendString(dst, v.inner.keys[i]); err != nil {
				return dst, err
			}
			dst = append(dst, ':')
		}
		if dst, err = e.AppendText(dst); err != nil {
			return dst, err
		}
	}
	return append(dst, end), nil
}

// Text is what AppendText appends.
func (v Value) Text() (string, error) {
	b, err := v.AppendText(nil)
	return string(b), err
}

const hexDigits = "0123456789abcdef"

func appendString(dst []byte, s string) ([]byte, error) {
	if !utf8.ValidString(s) {
		at := invalidByte(s)
		return dst, fmt.Errorf("print JSON: invalid UTF-8 byte at index %d of a string: 0x%02X", at, s[at])
	}
	dst = append(dst, '"')
	start := 0
	for i := range len(s) {
		c := s[i]
		if c >= 0x20 && c != '"' && c != '\\' {
			continue
		}
		dst = append(dst, s[start:i]...)
		start = i + 1
		switch c {
		case '"', '\\':
			dst = append(dst, '\\', c)
		case '\b':
			dst = append(dst, `\b`...)
		case '\f':
			dst = append(dst, `\f`...)
		case '\n':
			dst = append(dst, `\n`...)
		case '\r':
			dst = append(dst, `\r`...)
		case '\t':
			dst = append(dst, `\t`...)
		default:
			dst = append(dst, `\u00`...)
			dst = append(dst, hexDigits[c>>4], hexDigits[c&15])
		}
	}
	dst = append(dst, s[start:]...)
	return append(dst, '"'), nil
}
