// Package local is a store on this machine: a directory of objects, and beside it
// a SQLite database that says which of them are valid. It has the schema, the
// directories, the locks and the log files of Nix, so that Nix and this package
// can use one store at the same moment. (Nix manual, "Local Store"; versions 2.8
// to 2.34 were compared with, and the database of 2.35 is understood.)
//
// What it promises beyond the contracts of package store:
//
// An object becomes visible under its path by a rename, after its content has
// been checked and made canonical, and valid by one transaction after that.
//
// Everything that exists for a while only (locks, temporary directories, and
// what others ask for by Note) is written down in a session file before it is
// made. A process that dies at any instant leaves the file, and the next one
// that opens the store removes what it lists. The kernel has to survive: after a
// power failure Nix's own garbage collector finds what is left.
//
// A collector, Nix's or another, never takes what AddTempRoot was told of.
//
// The package knows nothing of how objects are built, of settings files or of
// keys: whether signatures are to be trusted is asked of a function.
package local
