// Package jsonvalue holds JSON as Nix holds it: a tree of values that is read
// strictly and printed in one canonical form.
//
// Structured attributes are part of a derivation, and so the bytes that Nix
// prints for them end up in hashes and in the files that builders read. Nix
// keeps JSON in the C++ library nlohmann/json and prints it with that library's
// defaults. Those differ from encoding/json in what matters here: which numbers
// are integers and how the others are printed, which bytes are escaped, that
// keys are sorted, and that text which is not UTF-8 is refused instead of
// mended.
//
// The package knows nothing of derivations.
package jsonvalue
