// Package serve is the serve protocol: what nix-store --serve and its clients say to
// each other, which is how stores of the scheme ssh are reached (Nix:
// libstore/serve-protocol).
//
// A connection begins with a handshake. Then the client sends commands, one at a time,
// and the server replies to each. There are no messages between: what a person should
// see goes to the server's standard error, and a server that fails says there why, and
// ends. Most parts of commands and replies look as in the worker protocol, so they are
// those of package worker.
//
// Versions from 2.0 to 2.8 are understood. The package does no I/O but on the streams
// that it is given, and it decides nothing.
package serve
