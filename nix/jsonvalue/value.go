package jsonvalue

import (
	"iter"
	"math"
	"slices"
	"sort"
)

// Kind is the type of a value. Numbers come in three: that is what decides how
// they are printed.
type Kind uint8

// The kinds.
const (
	Null     Kind = iota
	Bool          // true or false
	Unsigned      // an integer from 0 to 2^64-1
	Negative      // an integer from -2^63 to 0 that was written with a minus sign
	Float         // any other number
	String        // valid UTF-8
	Array
	Object
)

// String is the name that Nix's messages use; all numbers share one.
func (k Kind) String() string {
	switch k {
	case Null:
		return "null"
	case Bool:
		return "boolean"
	case Unsigned, Negative, Float:
		return "number"
	case String:
		return "string"
	case Array:
		return "array"
	case Object:
		return "object"
	}
	return "unknown"
}

// A Value is one JSON value. It does not change once it is made: values that
// are derived from it may share its parts. The zero Value is null.
type Value struct {
	kind  Kind
	num   uint64 // Bool, numbers: the bits
	str   string
	inner *inner
}

// inner is what an array or an object contains.
type inner struct {
	keys  []string // Object: sorted by bytes, no duplicates
	elems []Value
}

// NewString is s as a value. It can be printed only when s is valid UTF-8.
func NewString(s string) Value { return Value{kind: String, str: s} }

// NewBool is b as a value.
func NewBool(b bool) Value {
	if b {
		return Value{kind: Bool, num: 1}
	}
	return Value{kind: Bool}
}

// NewUnsigned is n as a value.
func NewUnsigned(n uint64) Value { return Value{kind: Unsigned, num: n} }

// NewFloat is f as a value. What is not finite is printed as null.
func NewFloat(f float64) Value { return Value{kind: Float, num: math.Float64bits(f)} }

// NewArray is an array of elems, which it keeps.
func NewArray(elems []Value) Value { return Value{kind: Array, inner: &inner{elems: elems}} }

// NewStrings is an array of strings.
func NewStrings[S ~string](list []S) Value {
	elems := make([]Value, len(list))
	for i, s := range list {
		elems[i] = NewString(string(s))
	}
	return NewArray(elems)
}

// NewObject is an object with the members of m.
func NewObject(m map[string]Value) Value {
	in := &inner{keys: make([]string, 0, len(m)), elems: make([]Value, 0, len(m))}
	for k := range m {
		in.keys = append(in.keys, k)
	}
	slices.Sort(in.keys)
	for _, k := range in.keys {
		in.elems = append(in.elems, m[k])
	}
	return Value{kind: Object, inner: in}
}

// Kind is the type of v.
func (v Value) Kind() Kind { return v.kind }

// IsNumber tells whether v is a number of any kind.
func (v Value) IsNumber() bool { return v.kind == Unsigned || v.kind == Negative || v.kind == Float }

// Str is the text of a string, and "" for anything else.
func (v Value) Str() string { return v.str }

// Bool is the value of a boolean, and false for anything else.
func (v Value) Bool() bool { return v.kind == Bool && v.num != 0 }

// Uint64 is a number as C++ converts it to uint64_t: negative integers wrap
// around, fractions are cut off. It is 0 for anything but a number.
func (v Value) Uint64() uint64 {
	switch v.kind {
	case Unsigned, Negative:
		return v.num
	case Float:
		f := v.float()
		switch {
		case f >= 1<<64 || f <= -(1<<63):
			return 1 << 63
		case f < 0:
			return uint64(int64(f))
		}
		return uint64(f)
	}
	return 0
}

// Float64 is a number as the nearest double, and 0 for anything else.
func (v Value) Float64() float64 {
	switch v.kind {
	case Unsigned:
		return float64(v.num)
	case Negative:
		return float64(int64(v.num))
	case Float:
		return v.float()
	}
	return 0
}

func (v Value) float() float64 { return math.Float64frombits(v.num) }

// Len is the number of elements of an array or members of an object, and 0 for
// anything else.
func (v Value) Len() int {
	if v.inner == nil {
		return 0
	}
	return len(v.inner.elems)
}

// Elements are the values in an array or an object, in order. The caller does
// not change the slice.
func (v Value) Elements() []Value {
	if v.inner == nil {
		return nil
	}
	return v.inner.elems
}

// Members are the keys and values of an object, sorted by the bytes of the keys.
// There are none in anything else.
func (v Value) Members() iter.Seq2[string, Value] {
	return func(yield func(string, Value) bool) {
		if v.kind != Object {
			return
		}
		for i, k := range v.inner.keys {
			if !yield(k, v.inner.elems[i]) {
				return
			}
		}
	}
}

// Get is a member of an object. ok is false when v has none of that name, or is
// no object.
func (v Value) Get(key string) (member Value, ok bool) {
	if v.kind != Object {
		return Value{}, false
	}
	i := sort.SearchStrings(v.inner.keys, key)
	if i == len(v.inner.keys) || v.inner.keys[i] != key {
		return Value{}, false
	}
	return v.inner.elems[i], true
}

// With is a copy of the object v in which key has the given value. It panics
// when v is not an object.
func (v Value) With(key string, member Value) Value {
	if v.kind != Object {
		panic("jsonvalue: With on a value that is not an object")
	}
	in := &inner{keys: slices.Clone(v.inner.keys), elems: slices.Clone(v.inner.elems)}
	i, found := slices.BinarySearch(in.keys, key)
	if found {
		in.elems[i] = member
	} else {
		in.keys = slices.Insert(in.keys, i, key)
		in.elems = slices.Insert(in.elems, i, member)
	}
	return Value{kind: Object, inner: in}
}
