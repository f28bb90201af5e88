// Package rpc is the executor service over gRPC (api/kiln/v1): a Server in front of a
// nix.Builder and a store, and a Client that is itself a nix.Builder.
//
// It owns what builds have that connections have not: an id, a record on disk that outlives
// the process, a log that any number of watchers read from any place. It owns who may do
// what as well. It does not know how builds are made.
//
// A watcher reads from the record, at its own pace: what one does not read is kept nowhere
// else, and no builder waits for it.
package rpc
