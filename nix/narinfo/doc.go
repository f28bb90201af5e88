// Package narinfo has what a binary cache says of a store object: the text of a
// narinfo file, the fingerprint of an object, and signatures of it (Nix:
// libstore/nar-info, libstore/path-info, libutil/signature).
//
// What is read comes from strangers, and is bounded.
package narinfo
