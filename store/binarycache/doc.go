// Package binarycache is a store that is nothing but files: for each object a narinfo,
// and its archive, compressed (Nix: libstore/binary-cache-store). The files are in a
// directory, or behind HTTP.
//
// What a cache says is believed no further than it can be checked: an archive has to
// have the hash and size that its narinfo states, which is what signatures are of, and
// is not unpacked beyond that size. Archives are streamed; what is written goes to a
// temporary file first, since its name follows from its content, and the narinfo comes
// last, so that nobody sees an object of which anything is missing.
package binarycache
