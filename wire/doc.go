// Package wire has the bytes of Nix's protocols: what the worker protocol, the
// serve protocol and the build hook's protocol are made of.
//
// A number is 64 bits, little-endian. A string has its length before it and
// zeros after it, up to a multiple of 8 bytes. A list, a set and a map have the
// number of their elements before them (Nix: libutil/serialise). A framed stream
// is a sequence of chunks, each with its length before it and no padding, that a
// length of 0 ends.
//
// What is read comes from strangers. A Reader has a limit for every length and
// count, checks them before it allocates, and lets memory grow only with the
// bytes that have arrived.
//
// The package knows no message of any protocol, and nothing of Nix but this.
package wire
