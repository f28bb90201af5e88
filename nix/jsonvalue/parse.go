package jsonvalue

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode/utf16"
	"unicode/utf8"
)

// Limits bounds what Parse reads. A field that is zero means its default.
type Limits struct {
	Bytes  int // length of the text; 64 MiB
	Values int // number of values, at any depth; 1,048,576
	Depth  int // arrays and objects inside one another; 512
}

// Defaults of Limits.
const (
	DefaultMaxBytes  = 64 << 20
	DefaultMaxValues = 1 << 20
	DefaultMaxDepth  = 512
)

// Parse reads one JSON text (RFC 8259) with nothing but white space around it.
// It is as strict as the library that Nix uses: the text must be UTF-8, escapes
// of half a surrogate pair and numbers beyond the range of a double are errors.
// When a key occurs twice in an object, the last one counts. Errors give the
// byte offset.
//
// Strings of the value share memory with text.
func Parse(text string, limits Limits) (Value, error) { return parse(text, limits, false) }

// ParseUnique is Parse, except that it is an error when a key occurs twice in an
// object.
func ParseUnique(text string, limits Limits) (Value, error) { return parse(text, limits, true) }

func parse(text string, limits Limits, unique bool) (Value, error) {
	p := parser{
		text:   text,
		values: cmp.Or(limits.Values, DefaultMaxValues),
		depth:  cmp.Or(limits.Depth, DefaultMaxDepth),
		unique: unique,
	}
	if most := cmp.Or(limits.Bytes, DefaultMaxBytes); len(text) > most {
		return Value{}, fmt.Errorf("parse JSON: text of %d bytes is longer than the limit of %d", len(text), most)
	}
	if !utf8.ValidString(text) {
		return Value{}, fmt.Errorf("parse JSON: byte %d: not UTF-8", invalidByte(text))
	}
	v, err := p.value()
	if err != nil {
		return Value{}, fmt.Errorf("parse JSON: %w", err)
	}
	p.space()
	if p.pos != len(text) {
		return Value{}, fmt.Errorf("parse JSON: %w", p.unexpected("the end"))
	}
	return v, nil
}

// invalidByte is the offset of the first byte that is not part of UTF-8 text,
// and -1 when there is none.
func invalidByte(s string) int {
	for i, r := range s {
		if r == utf8.RuneError {
			if _, size := utf8.DecodeRuneInString(s[i:]); size == 1 {
				return i
			}
		}
	}
	return -1
}

type parser struct {
	text   string
	pos    int
	values int // how many more there may be
	depth  int // how much deeper it may go
	unique bool
}

func (p *parser) errorf(format string, args ...any) error {
	return fmt.Errorf("byte %d: %w", p.pos, fmt.Errorf(format, args...))
}

func (p *parser) unexpected(wanted string) error {
	if p.pos == len(p.text) {
		return p.errorf("expected %s, but the text ends", wanted)
	}
	r, _ := utf8.DecodeRuneInString(p.text[p.pos:])
	return p.errorf("expected %s, not %q", wanted, r)
}

func (p *parser) space() {
	for p.pos < len(p.text) {
		switch p.text[p.pos] {
		case ' ', '\t', '\n', '\r':
			p.pos++
		default:
			return
		}
	}
}

// peek is the next byte, or 0 at the end: no token begins with it.
func (p *parser) peek() byte {
	if p.pos == len(p.text) {
		return 0
	}
	return p.text[p.pos]
}

func (p *parser) value() (Value, error) {
	p.space()
	if p.values--; p.values < 0 {
		return Value{}, p.errorf("more values than the limit allows")
	}
	switch c := p.peek(); {
	case c == '{':
		return p.object()
	case c == '[':
		return p.array()
	case c == '"':
		s, err := p.string()
		return NewString(s), err
	case c == '-' || c >= '0' && c <= '9':
		return p.number()
	}
	for word, v := range words {
		if strings.HasPrefix(p.text[p.pos:], word) {
			p.pos += len(word)
			return v, nil
		}
	}
	return Value{}, p.unexpected("a value")
}

var words = map[string]Value{"null": {}, "true": NewBool(true), "false": NewBool(false)}

func (p *parser) open() error {
	if p.depth--; p.depth < 0 {
		return p.errorf("nested deeper than the limit allows")
	}
	p.pos++
	p.space()
	return nil
}

func (p *parser) array() (Value, error) {
	if err := p.open(); err != nil {
		return Value{}, err
	}
	elems := []Value{}
	for p.peek() != ']' {
		if len(elems) > 0 {
			if p.peek() != ',' {
				return Value{}, p.unexpected("',' or ']'")
			}
			p.pos++
		}
		v, err := p.value()
		if err != nil {
			return Value{}, err
		}
		elems = append(elems, v)
		p.space()
	}
	p.pos++
	p.depth++
	return NewArray(elems), nil
}

type member struct {
	key   string
	at    int // where the key stands
	value Value
}

func (p *parser) object() (Value, error) {
	if err := p.open(); err != nil {
		return Value{}, err
	}
	var members []member
	for p.peek() != '}' {
		if len(members) > 0 {
			if p.peek() != ',' {
				return Value{}, p.unexpected("',' or '}'")
			}
			p.pos++
			p.space()
		}
		m := member{at: p.pos}
		if p.peek() != '"' {
			return Value{}, p.unexpected("a key")
		}
		var err error
		if m.key, err = p.string(); err != nil {
			return Value{}, err
		}
		p.space()
		if p.peek() != ':' {
			return Value{}, p.unexpected("':'")
		}
		p.pos++
		if m.value, err = p.value(); err != nil {
			return Value{}, err
		}
		members = append(members, m)
		p.space()
	}
	p.pos++
	p.depth++
	return p.sortMembers(members)
}

// sortMembers makes an object of what was read in the order of the text.
func (p *parser) sortMembers(members []member) (Value, error) {
	slices.SortStableFunc(members, func(a, b member) int { return strings.Compare(a.key, b.key) })
	in := &inner{keys: make([]string, 0, len(members)), elems: make([]Value, 0, len(members))}
	for _, m := range members {
		if n := len(in.keys); n > 0 && in.keys[n-1] == m.key {
			if p.unique {
				p.pos = m.at
				return Value{}, p.errorf("key %q occurs twice", m.key)
			}
			in.elems[n-1] = m.value
			continue
		}
		in.keys = append(in.keys, m.key)
		in.elems = append(in.elems, m.value)
	}
	return Value{kind: Object, inner: in}, nil
}

// string reads a string whose opening quote is next.
func (p *parser) string() (string, error) {
	p.pos++
	start := p.pos
	var b []byte // what was read up to start, once there was an escape
	for {
		switch c := p.peek(); {
		case p.pos == len(p.text):
			return "", p.unexpected("'\"'")
		case c == '"':
			s := p.text[start:p.pos]
			p.pos++
			if b == nil {
				return s, nil
			}
			return string(append(b, s...)), nil
		case c < 0x20:
			return "", p.errorf("control character %q in a string must be escaped", c)
		case c == '\\':
			b = append(b, p.text[start:p.pos]...)
			r, err := p.escape()
			if err != nil {
				return "", err
			}
			b = utf8.AppendRune(b, r)
			start = p.pos
		default:
			p.pos++
		}
	}
}

const escapes = "\"\\/bfnrt"
const escaped = "\"\\/\b\f\n\r\t"

// escape reads an escape whose backslash is next.
func (p *parser) escape() (rune, error) {
	p.pos++
	c := p.peek()
	if i := strings.IndexByte(escapes, c); i >= 0 {
		p.pos++
		return rune(escaped[i]), nil
	}
	if c != 'u' {
		return 0, p.unexpected("an escape")
	}
	p.pos++
	r, err := p.hex4()
	if err != nil || !utf16.IsSurrogate(r) {
		return r, err
	}
	if strings.HasPrefix(p.text[p.pos:], `\u`) {
		p.pos += 2
		low, err := p.hex4()
		if err != nil {
			return 0, err
		}
		if pair := utf16.DecodeRune(r, low); pair != utf8.RuneError {
			return pair, nil
		}
	}
	return 0, p.errorf("half a surrogate pair in a string")
}

func (p *parser) hex4() (rune, error) {
	if len(p.text)-p.pos < 4 {
		return 0, p.errorf("expected four hexadecimal digits")
	}
	n, err := strconv.ParseUint(p.text[p.pos:p.pos+4], 16, 16)
	if err != nil {
		return 0, p.errorf("expected four hexadecimal digits")
	}
	p.pos += 4
	return rune(n), nil
}

func (p *parser) digits() bool {
	start := p.pos
	for c := p.peek(); c >= '0' && c <= '9'; c = p.peek() {
		p.pos++
	}
	return p.pos > start
}

func (p *parser) number() (Value, error) {
	start := p.pos
	negative := p.peek() == '-'
	if negative {
		p.pos++
	}
	if p.peek() == '0' {
		p.pos++
	} else if !p.digits() {
		return Value{}, p.unexpected("a digit")
	}
	integer := true
	if p.peek() == '.' {
		integer = false
		p.pos++
		if !p.digits() {
			return Value{}, p.unexpected("a digit")
		}
	}
	if c := p.peek(); c == 'e' || c == 'E' {
		integer = false
		p.pos++
		if c := p.peek(); c == '+' || c == '-' {
			p.pos++
		}
		if !p.digits() {
			return Value{}, p.unexpected("a digit")
		}
	}
	word := p.text[start:p.pos]
	if integer && negative {
		if n, err := strconv.ParseInt(word, 10, 64); err == nil {
			return Value{kind: Negative, num: uint64(n)}, nil
		}
	} else if integer {
		if n, err := strconv.ParseUint(word, 10, 64); err == nil {
			return NewUnsigned(n), nil
		}
	}
	f, _ := strconv.ParseFloat(word, 64)
	if math.IsInf(f, 0) {
		p.pos = start
		return Value{}, p.errorf("number '%s' is out of range", clip(word))
	}
	return NewFloat(f), nil
}

func clip(s string) string {
	if len(s) <= 256 {
		return s
	}
	return s[:256] + "…"
}
