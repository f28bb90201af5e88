// Package nix is the vocabulary that every other package speaks: store paths,
// hashes, content addresses, derivations, derived paths, path information,
// realisations, and the contract of something that builds.
//
// It holds values and the pure computations on them. It does no I/O and knows
// no text format beyond the short printed forms of its own values; .drv files,
// archives, narinfos and protocols have packages of their own.
package nix
