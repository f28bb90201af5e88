// Package aterm reads and writes derivation files and computes the hashes that
// follow from them.
//
// A .drv file is a derivation printed as a term ("Derive(…)", Nix manual,
// "Derivation 'ATerm' file format"). The printed form is not only an encoding:
// the file's own store path is the hash of its bytes, and the paths of
// input-addressed outputs come from the hash of the same form with the inputs
// replaced by their hashes (Nix manual, "Input-addressing derivation outputs").
// So the writer is exact to the byte.
//
// The reader is as lenient as Nix's, because derivations that were written by
// other programs, or by builders (dynamic derivations), are built by Nix: see
// Parse. What it gives is what Nix understands; writing that again gives the
// canonical form, which need not be the bytes that were read.
//
// The package does no I/O. It learns the inputs of a derivation from a Loader.
package aterm
