// Package builtin has the builders that are part of the executor and no programs
// of a derivation's own: builtin:fetchurl, builtin:buildenv and
// builtin:unpack-channel.
//
// They run as a process of their own, in the same sandbox as any builder: what
// they need to know comes to them as data (Request), what they may touch is what
// the sandbox shows them. The package knows nothing of stores and sandboxes.
package builtin
