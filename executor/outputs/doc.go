// Package outputs takes what a builder left behind and makes store objects of
// it: canonical metadata, archive hash and references in one walk over the
// files, content addresses, the order of the outputs among themselves, the
// place in the store.
//
// It trusts nothing that it finds: the builder chose every name, type, mode and
// link in there. It does not register: what it returns is in place but not yet
// valid.
package outputs
