// Package testenv is what tests of different packages share about the machine
// they run on: whether real Nix, a sandbox, a static busybox are there; private
// stores and settings for programs that are run; and the assertion that a
// program left nothing behind.
//
// A machine that lacks something makes a test skip, with the reason, unless the
// environment says that the thing has to be there:
//
//	KILN_REQUIRE_SANDBOX=1   skips for want of a sandbox are failures
//	KILN_REQUIRE_NIX=1       skips for want of real Nix, busybox or a compiler are failures
//	KILN=PATH                the kiln to test, instead of one built from the tree
//
// Only tests and test-only packages import it.
package testenv
