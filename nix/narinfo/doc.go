// Package narinfo has what a binary cache says of a store object: the text of a
// narinfo file (Nix: libstore/nar-info). That what it says is signed is for package
// sign to see.
//
// What is read comes from strangers, and is bounded.
package narinfo
