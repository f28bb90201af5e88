// Package worker is the worker protocol: what clients of Nix and its daemon say to
// each other (Nix: libstore/worker-protocol, libstore/daemon).
//
// A connection begins with a handshake, in which both sides agree on a Protocol.
// Then the client sends requests, one at a time. The server answers each with
// messages, of which the last is Last or an error, and after Last with a reply.
// Requests are values (Request) that know how they are written and read in each
// version; the parts of replies are methods of Encoder and Decoder, in pairs. Both
// directions stand side by side, so that one side can be tested with the other.
//
// Clients from before Nix 2.0 (minor version 18) to today's (38, and features) are
// understood. The package does no I/O but on the streams that it is given, and it
// decides nothing: what a request means is for package daemon, or for a store.
package worker
