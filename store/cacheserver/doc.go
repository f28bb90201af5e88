// Package cacheserver lets others fetch what a store has: it is a binary cache behind
// HTTP (Nix manual, "HTTP Binary Cache Store"), whose files are made when somebody asks
// for them. It has narinfos, archives, listings, logs of builds and realisations, and
// nothing can be changed by it.
//
// Everything that is valid in the store can be read by whoever can reach the server: it
// knows no users.
package cacheserver
