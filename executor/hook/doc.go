// Package hook runs the programs that nix.conf lets an operator name: one that
// shows how two outputs differ (diff-hook), one that adds to the sandbox of a
// build (pre-build-hook), one that is told of outputs (post-build-hook), and the
// one that passes builds on to other machines (build-hook). The names, the
// arguments and what is said on which descriptor are those of the Nix manual and
// of Nix 2.34.
//
// These programs are trusted, but not to be well: each has a session of its own,
// so that it can be killed with all that it started (but for what makes yet
// another session), it has no terminal, it dies with this process, and what is
// kept of its output has a limit.
//
// The package decides nothing about when a hook is due or what its answer means
// for a build, and knows no settings but those it is handed.
package hook
