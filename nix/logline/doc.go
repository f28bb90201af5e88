// Package logline reads and writes the lines in which programs of Nix tell each
// other what they do: "@nix " and a JSON object. Nix prints them with
// --log-format internal-json, its build hook prints them to whoever started it,
// and builders print them to name their phase.
//
// The names and the numbers are those of Nix 2.34. The Nix manual describes
// them in part, in "JSON Logger Format"; numbers are never used for something
// else later on, so that one that is not known here can be passed on.
//
// The package knows one line at a time. Who may be believed what is for its
// caller to know: Nix takes from a builder only SetPhase, Msg, and activities of
// type FileTransfer with their results.
package logline
