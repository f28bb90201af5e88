// Package interop holds the tests that set kiln beside real Nix: the same
// derivations built by both, each in a store of its own, and everything compared
// that is left behind; both in one store at once; and kiln killed at any moment.
//
// It has no code for anybody else. The derivations are in testdata/corpus, one
// Nix file for each group of cases; README.md there says what a case may say.
// What nix-instantiate makes of them is built by `nix-store --realise` on one
// side and `kiln build` on the other, and Nix's own tools tell what is in both
// stores. What clients do with a daemon is in clientrows_test.go, a script for each
// row, and is done with kiln's and with real Nix's.
//
// The tests need real Nix, a static busybox and, for the chain of C programs, a
// compiler. They run on Linux, as root, in a mount namespace with build users of
// their own, and as an ordinary user.
package interop
