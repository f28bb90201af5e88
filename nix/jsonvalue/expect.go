package jsonvalue

import "fmt"

// Expect tells whether v is of the given kind, with the message that Nix has for
// a value of another type. All kinds of numbers are one type.
func (v Value) Expect(kind Kind) error {
	if v.kind.String() == kind.String() {
		return nil
	}
	text, err := v.Text()
	if err != nil {
		text = "(not UTF-8)"
	}
	return fmt.Errorf("Expected JSON value to be of type '%s' but it is of type '%s': %s", kind, v.kind, clip(text))
}

// AsString is the text of a string.
func (v Value) AsString() (string, error) { return v.str, v.Expect(String) }

// AsBool is the value of a boolean.
func (v Value) AsBool() (bool, error) { return v.Bool(), v.Expect(Bool) }

// AsStrings are the texts of an array of strings.
func (v Value) AsStrings() ([]string, error) {
	if err := v.Expect(Array); err != nil {
		return nil, err
	}
	list := make([]string, v.Len())
	for i, e := range v.Elements() {
		var err error
		if list[i], err = e.AsString(); err != nil {
			return nil, err
		}
	}
	return list, nil
}
