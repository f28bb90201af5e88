// Package store is the contract for keeping store objects: where they come
// from (Source), where they go (Sink), and both with a place of their own
// (Store). Contracts have one to three methods; what only some stores can do is
// an interface of its own, found by type assertion. Everything that can be said
// in terms of the contracts is a function here: closures, orders, verification.
//
// It knows no kind of store.
package store
