// Package daemon speaks Nix's worker protocol to one client at a time: for a store,
// a builder, and how far the client is trusted. The daemon of a machine and the one
// that a single build sees are the same code with another store and another builder.
//
// A connection is one loop: read a request, carry it out, reply. What a client
// may read of a build while it runs, goes out between. Requests are read before
// anything is done, their bodies as they are needed; a request that is refused leaves
// the connection usable, unless nobody could tell where the next one begins.
//
// The package listens to nothing and knows no executor: whoever accepts connections
// says who the client is.
package daemon
