// Package progress shows a person, or a program, what happens to a request while
// it is carried out: it is a nix.LogSink that writes to a terminal or a stream.
//
// There are views that stay at the bottom of a terminal and are drawn again as
// things change (a tree of goals, one line a builder, a single line), plain
// lines, and the messages that Nix writes for programs. What builders print is
// cleaned before it reaches a terminal: it may colour its own line and do nothing
// else.
//
// The package knows events and store paths. It does not know who sends them,
// which file it writes to, nor the environment and signals of the process: its
// caller looks at those and says what the terminal can do.
package progress
