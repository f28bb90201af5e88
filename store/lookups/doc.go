// Package lookups remembers what binary caches have answered, so that the next process
// need not ask again: that a cache has an object and what it says of it, that it has
// none, and what it says of itself. Answers count for a limited time.
//
// It is the SQLite file of Nix (libstore/nar-info-disk-cache), with the same tables, and
// both can use it at the same time. Nobody relies on it: what cannot be read is not
// known, and what cannot be written is asked for again. That nothing in it is believed
// more than the cache itself is up to those who ask: signatures are in it, and so is
// the hash that an archive must have.
package lookups
