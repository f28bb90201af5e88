// Package enclave gives a program a corner of the machine to itself: a mount
// namespace of its own, with a work directory in memory and with build users
// that exist nowhere else.
//
// Tests and benchmarks that start builders as root need it for two reasons.
// Whoever builds as a build user kills every process of that user before and
// after, so two programs that share users shoot each other, whether they are
// the two sides of a comparison or a test and the machine's own daemon. And
// nothing that happens in the namespace, accounts and mounts alike, outlives
// the processes in it.
//
// The package knows nothing of Nix and nothing of tests.
package enclave
