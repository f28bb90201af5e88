// Package remote is the store behind a daemon: the client's side of Nix's worker
// protocol as a store.Store and as a nix.Builder. The daemon is reached by a socket
// (Unix), or its program is started on another machine by ssh (SSH); whatever gives
// a stream of bytes will do.
//
// It keeps a few connections, opens them when they are needed, and uses them again.
// A connection carries one request at a time. What the daemon has to tell meanwhile
// goes to a nix.LogSink. Archives are streamed in both directions.
//
// Daemons of Nix 2.3 and later understand it. What an old one cannot do is an error
// that says so, or done in an older way.
package remote
