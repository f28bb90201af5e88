// Package refscan finds the hash parts of store paths in a stream of bytes, and
// replaces them.
//
// A store object refers to another one exactly when the 32 characters of the
// other's hash part stand somewhere in its archive, whatever is around them
// (Nix manual, "References"). So the scan knows nothing of paths, words or
// files: it takes a set of strings of 32 characters of Nix's base32, and bytes.
//
// Whoever builds chooses these bytes, and must not be able to make the scan
// slow. It looks at the last eight bytes of each window of 32, and at one entry
// of a table, which says how far the window can move (the idea of Wu and
// Manber, "A fast algorithm for multi-pattern searching", 1994). Only a window
// that ends as one of the hashes does is looked up. The work for a byte is
// bounded by that look, however the text is made; on nearly all text it is done
// once in 25 bytes. Memory does not grow with the stream.
package refscan
