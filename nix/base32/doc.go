// Package base32 is Nix's base32, the text form of the digests in store paths
// and of most hashes that Nix prints (Nix manual, "Nix32 encoding").
//
// It is not the base32 of RFC 4648: the alphabet leaves out e, o, u and t, the
// last character holds the lowest bits of the first byte, and there is no
// padding. A digest has exactly one encoding here, and only that one is read
// back.
//
// The package knows nothing of hash functions: any length of input will do.
package base32
