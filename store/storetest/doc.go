// Package storetest has what tests of stores share: one suite that every
// store.Store has to pass (Run), a store in memory that passes it, and objects
// to put into stores.
//
// The suite holds what the contracts of package store promise, the optional ones
// where the store has them. It does not know how a store keeps its objects. Only
// tests import it.
package storetest
