// Package conf owns the settings: which there are, what their text means, where
// their values come from, and who may change them. It reads nix.conf and the
// other sources that Nix reads, in the order and with the grammar of Nix, so
// that one file serves both programs.
//
// A table holds what is known of every setting (Definition); Settings holds the
// values of one process or one connection. Beside them stand the two things that
// the same sources decide: the directories of an installation (Dirs) and which
// store is meant (StoreURI).
//
// The package knows neither what the settings do nor the process that it runs
// in: environment variables, files and facts about the machine come as an
// Environment, which tests write down and Host reads.
//
// Names, types, defaults and grammar follow the Nix manual ("nix.conf") and
// what Nix 2.8 and 2.34 were seen to do; where the two differ, the newer.
package conf
