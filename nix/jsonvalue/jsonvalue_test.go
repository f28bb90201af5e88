package jsonvalue

import (
	"encoding/json"
	"math"
	"math/rand/v2"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// printed has texts and what Nix 2.34.8 prints after it read them as structured
// attributes.
var printed = []struct{ in, want string }{
	{`{}`, `{}`},
	{" { \"b\" :\t1.50,\r\n\"a\":1 } ", `{"a":1,"b":1.5}`},
	{`{"b":{"z":1,"a":[]},"a":{"c":1,"c":2}}`, `{"a":{"c":2},"b":{"a":[],"z":1}}`},
	{`{"":[],"Z":{},"a":[1,[2,{"b":null}],true,false]}`, `{"":[],"Z":{},"a":[1,[2,{"b":null}],true,false]}`},
	{`"\u00e9\ud83d\ude00\u0001\u001F\u007f\b\f\n\r\t\/\"\\é\u2028"`, "\"é😀\\u0001\\u001f\x7f\\b\\f\\n\\r\\t/\\\"\\\\é\u2028\""},
	{`"\u0000"`, `"\u0000"`},
	{`-0`, `0`},
	{`0`, `0`},
	{`-1`, `-1`},
	{`18446744073709551615`, `18446744073709551615`},
	{`18446744073709551616`, `1.8446744073709552e+19`},
	{`100000000000000000000`, `1e+20`},
	{`-9223372036854775808`, `-9223372036854775808`},
	{`-9223372036854775809`, `-9.223372036854776e+18`},
	{`-0.0`, `-0.0`},
	{`0e5`, `0.0`},
	{`1e-400`, `0.0`},
	{`1e0`, `1.0`},
	{`1E+2`, `100.0`},
	{`1e14`, `100000000000000.0`},
	{`1e15`, `1e+15`},
	{`123456789012345.0`, `123456789012345.0`},
	{`1234567890123456.0`, `1.234567890123456e+15`},
	{`0.0001`, `0.0001`},
	{`0.00001`, `1e-05`},
	{`0.00012345`, `0.00012345`},
	{`1e-7`, `1e-07`},
	{`5e-324`, `5e-324`},
	{`1.7976931348623157e308`, `1.7976931348623157e+308`},
	// More digits than the shortest that reads back the same.
	{`-8.1768297240017e+16`, `-8.176829724001699e+16`},
	{`2.218814106889885e+16`, `2.2188141068898848e+16`},
	{`-1.744635769627277e+03`, `-1744.6357696272771`},
	{`4.113814006115939e-136`, `4.1138140061159394e-136`},
	{`-5.370105621787562e+54`, `-5.3701056217875623e+54`},
	{`2.851959843102251e+02`, `285.19598431022513`},
}

func TestPrint(t *testing.T) {
	for _, test := range printed {
		v, err := Parse(test.in, Limits{})
		if err != nil {
			t.Errorf("Parse(%s): %v", test.in, err)
			continue
		}
		got, err := v.Text()
		if err != nil || got != test.want {
			t.Errorf("Parse(%s) prints %s, %v, want %s", test.in, got, err, test.want)
		}
	}
}

func TestParseErrors(t *testing.T) {
	for in, want := range map[string]string{
		``:                       "byte 0: expected a value, but the text ends",
		` nul`:                   "byte 1: expected a value, not 'n'",
		`{} x`:                   "byte 3: expected the end, not 'x'",
		"\ufeff{}":               "byte 0: expected a value, not '\\ufeff'",
		`{"a":01}`:               "byte 6: expected ',' or '}', not '1'",
		`{"a":+1}`:               "byte 5: expected a value, not '+'",
		`[1.]`:                   "byte 3: expected a digit, not ']'",
		`[.5]`:                   "byte 1: expected a value, not '.'",
		`[-]`:                    "byte 2: expected a digit, not ']'",
		`[1e]`:                   "byte 3: expected a digit, not ']'",
		`[1,]`:                   "byte 3: expected a value, not ']'",
		`[1 2]`:                  "byte 3: expected ',' or ']', not '2'",
		`[1`:                     "byte 2: expected ',' or ']', but the text ends",
		`[`:                      "byte 1: expected a value, but the text ends",
		`{"a":1,}`:               "byte 7: expected a key, not '}'",
		`{"a":1 "b":2}`:          "byte 7: expected ',' or '}', not '\"'",
		`{"a" 1}`:                "byte 5: expected ':', not '1'",
		`{a:1}`:                  "byte 1: expected a key, not 'a'",
		`[1e400]`:                "byte 1: number '1e400' is out of range",
		`[-1e400]`:               "byte 1: number '-1e400' is out of range",
		`[NaN]`:                  "byte 1: expected a value, not 'N'",
		"[\"\t\"]":               "byte 2: control character '\\t' in a string must be escaped",
		"\"\x00\"":               "byte 1: control character '\\x00' in a string must be escaped",
		"[\"a\xff\"]":            "byte 3: not UTF-8",
		"\"\xed\xa0\x80\"":       "byte 1: not UTF-8",
		`"`:                      "byte 1: expected '\"', but the text ends",
		`"\`:                     "byte 2: expected an escape, but the text ends",
		`"\x"`:                   "byte 2: expected an escape, not 'x'",
		`"\u12G4"`:               "byte 3: expected four hexadecimal digits",
		`"\u12`:                  "byte 3: expected four hexadecimal digits",
		`"\u+123"`:               "byte 3: expected four hexadecimal digits",
		`"\ud800"`:               "byte 7: half a surrogate pair in a string",
		`"\ud800\u0041"`:         "byte 13: half a surrogate pair in a string",
		`"\udc00\ud800"`:         "byte 13: half a surrogate pair in a string",
		`/*c*/{}`:                "byte 0: expected a value, not '/'",
		`[1]]`:                   "byte 3: expected the end, not ']'",
		strings.Repeat("[", 600): "byte 512: nested deeper than the limit allows",
	} {
		_, err := Parse(in, Limits{})
		if err == nil || err.Error() != "parse JSON: "+want {
			t.Errorf("Parse(%.40q): %v, want %s", in, err, want)
		}
	}
}

func TestLimits(t *testing.T) {
	tests := []struct {
		in     string
		limits Limits
		ok     bool
	}{
		{`[1]`, Limits{Bytes: 3}, true},
		{`[1] `, Limits{Bytes: 3}, false},
		{`[1,{"a":2}]`, Limits{Values: 4}, true},
		{`[1,{"a":2},3]`, Limits{Values: 4}, false},
		{`[[],[[]],{"a":[]}]`, Limits{Depth: 3}, true},
		{`[[],[[[]]]]`, Limits{Depth: 3}, false},
	}
	for _, test := range tests {
		if _, err := Parse(test.in, test.limits); (err == nil) != test.ok {
			t.Errorf("Parse(%s, %+v): %v", test.in, test.limits, err)
		}
	}
}

func TestParseUnique(t *testing.T) {
	_, err := ParseUnique(`[{"b":1,"a":2, "b":3}]`, Limits{})
	if want := `parse JSON: byte 15: key "b" occurs twice`; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
	if _, err := ParseUnique(`[{"b":1,"a":{"b":3}}]`, Limits{}); err != nil {
		t.Error(err)
	}
}

func TestObject(t *testing.T) {
	v, err := Parse(`{"m":1,"c":2,"x":3}`, Limits{})
	if err != nil {
		t.Fatal(err)
	}
	w := v.With("c", NewBool(true)).With("a", NewString("é")).With("z", NewStrings([]string{"1"}))
	got, _ := w.Text()
	if want := `{"a":"é","c":true,"m":1,"x":3,"z":["1"]}`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if got, _ := v.Text(); got != `{"c":2,"m":1,"x":3}` {
		t.Errorf("With changed its receiver: %s", got)
	}
	if m, ok := w.Get("x"); !ok || m.Uint64() != 3 {
		t.Errorf("Get(x) = %v, %v", m, ok)
	}
	if _, ok := w.Get("y"); ok {
		t.Error("Get(y) found something")
	}
	if _, ok := NewArray(nil).Get("y"); ok {
		t.Error("an array has members")
	}
	var keys []string
	for k := range w.Members() {
		keys = append(keys, k)
	}
	if diff := cmp.Diff([]string{"a", "c", "m", "x", "z"}, keys); diff != "" {
		t.Error(diff)
	}
	same := NewObject(map[string]Value{"x": NewUnsigned(3), "c": NewUnsigned(2), "m": NewFloat(1)})
	if got, _ := same.Text(); got != `{"c":2,"m":1.0,"x":3}` {
		t.Errorf("NewObject prints %s", got)
	}
}

func TestUint64(t *testing.T) {
	for in, want := range map[string]uint64{
		`7`:                    7,
		`-1`:                   math.MaxUint64,
		`18446744073709551615`: math.MaxUint64,
		`1.9`:                  1,
		`-1.9`:                 math.MaxUint64,
		`1e19`:                 10000000000000000000,
		`1e30`:                 1 << 63,
		`"7"`:                  0,
	} {
		v, err := Parse(in, Limits{})
		if err != nil {
			t.Fatal(err)
		}
		if got := v.Uint64(); got != want {
			t.Errorf("%s is %d, want %d", in, got, want)
		}
	}
}

func TestPrintInvalidUTF8(t *testing.T) {
	for _, v := range []Value{
		NewString("ab\xff"),
		NewArray([]Value{NewString("ab\xff")}),
		NewObject(map[string]Value{"ab\xff": {}}),
	} {
		_, err := v.Text()
		if want := "print JSON: invalid UTF-8 byte at index 2 of a string: 0xFF"; err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}

// What is printed reads back as the same number, and has no more digits than a
// double can need.
func TestFloatsReadBack(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for i := range 200_000 {
		f := math.Float64frombits(r.Uint64())
		switch i % 4 {
		case 1:
			f = r.NormFloat64() * 1000
		case 2:
			f = math.Ldexp(float64(1+r.IntN(3)), r.IntN(2000)-1000)
		case 3:
			f = math.Float64frombits(r.Uint64N(1 << 53)) // around the smallest
		}
		if math.IsInf(f, 0) || math.IsNaN(f) {
			continue
		}
		got := string(appendFloat(nil, f))
		back, err := strconv.ParseFloat(got, 64)
		if err != nil || math.Float64bits(back) != math.Float64bits(f) {
			t.Fatalf("%v is printed as %s: %v, %v", f, got, back, err)
		}
		if n := digitCount(got); n > 17 {
			t.Fatalf("%v is printed as %s, with %d digits", f, got, n)
		}
	}
}

func digitCount(s string) int {
	s, _, _ = strings.Cut(strings.TrimPrefix(s, "-"), "e")
	s = strings.Trim(strings.TrimLeft(strings.Replace(s, ".", "", 1), "0"), "0")
	return len(s)
}

func FuzzParse(f *testing.F) {
	for _, test := range printed {
		f.Add(test.in)
	}
	for _, s := range []string{``, `[[[[`, `{"a":{"a":{"a":`, `"\ud800\udc00"`, "\"\xc3\"", `-`, `[1,2,]`, `1e999`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		v, err := Parse(text, Limits{Depth: 50})
		if err != nil {
			// What is refused is no JSON, or is beyond the limits and ranges.
			if json.Valid([]byte(text)) && !strings.Contains(err.Error(), "limit") &&
				!strings.Contains(err.Error(), "UTF-8") && !strings.Contains(err.Error(), "surrogate") &&
				!strings.Contains(err.Error(), "range") {
				t.Fatalf("%q is valid, but: %v", text, err)
			}
			return
		}
		if !json.Valid([]byte(text)) {
			t.Fatalf("%q is not JSON", text)
		}
		once, err := v.Text()
		if err != nil {
			t.Fatalf("%q was read, but cannot be printed: %v", text, err)
		}
		again, err := ParseUnique(once, Limits{Depth: 50})
		if err != nil {
			t.Fatalf("%q: cannot read %s: %v", text, once, err)
		}
		if twice, _ := again.Text(); twice != once {
			t.Fatalf("%q prints %s and then %s", text, once, twice)
		}
	})
}

func BenchmarkParsePrint(b *testing.B) {
	text := `{"name":"hello","version":"2.12","env":{"a":[1,2,3,4.5],"path":"/nix/store/x\n"},"list":[` +
		strings.Repeat(`"some string",`, 200) + `null]}`
	b.SetBytes(int64(len(text)))
	var buf []byte
	for b.Loop() {
		v, err := Parse(text, Limits{})
		if err != nil {
			b.Fatal(err)
		}
		if buf, err = v.AppendText(buf[:0]); err != nil {
			b.Fatal(err)
		}
	}
}

func TestExpect(t *testing.T) {
	v, err := Parse(`{"s":"x","n":-1,"f":1.5,"b":true,"l":["a","b"],"m":["a",1],"o":{},"z":null}`, Limits{})
	if err != nil {
		t.Fatal(err)
	}
	get := func(key string) Value { m, _ := v.Get(key); return m }
	if s, err := get("s").AsString(); err != nil || s != "x" {
		t.Errorf("got %s, %v", s, err)
	}
	if b, err := get("b").AsBool(); err != nil || !b {
		t.Errorf("got %v, %v", b, err)
	}
	if l, err := get("l").AsStrings(); err != nil || !cmp.Equal(l, []string{"a", "b"}) {
		t.Errorf("got %v, %v", l, err)
	}
	if err := get("f").Expect(Unsigned); err != nil {
		t.Error(err)
	}
	_, wrongString := get("l").AsString()
	_, wrongBool := get("n").AsBool()
	_, wrongList := get("o").AsStrings()
	_, wrongElement := get("m").AsStrings()
	for want, err := range map[string]error{
		`Expected JSON value to be of type 'string' but it is of type 'array': ["a","b"]`: wrongString,
		`Expected JSON value to be of type 'boolean' but it is of type 'number': -1`:      wrongBool,
		`Expected JSON value to be of type 'array' but it is of type 'object': {}`:        wrongList,
		`Expected JSON value to be of type 'string' but it is of type 'number': 1`:        wrongElement,
		`Expected JSON value to be of type 'object' but it is of type 'null': null`:       get("z").Expect(Object),
	} {
		if err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
}
