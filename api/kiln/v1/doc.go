// Package kilnv1 is the executor service as messages: kiln.proto, where every field is
// explained, and what protoc makes of it. `make generate` makes it again.
package kilnv1

//go:generate ./generate
