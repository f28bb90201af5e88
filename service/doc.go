// Package service is the daemon of a machine: it accepts clients, says who may connect
// and how far each is trusted, and gives each its settings, its builder and its lease of
// the store. What is then said on a connection is package daemon's.
//
// A store with what builds into it is a generation. Connections hold the one that they
// began with; a new connection begins the next one when the store has been made anew or
// migrated by somebody else, or when nix.conf was read again.
//
// It knows no executor: it is handed a function that opens a Workshop.
package service
