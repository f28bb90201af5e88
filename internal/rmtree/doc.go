// Package rmtree deletes file trees that somebody hostile may be changing at the
// same moment.
//
// Builders leave trees behind in directories that they could write to. A
// deletion that resolves paths can be led out of such a tree by a directory that
// turns into a symbolic link between two calls. This one holds descriptors of
// the directories it is in and names single entries in them (package dirfd), so
// that the worst a racing process can do is make it fail.
//
// Trees of any depth can be deleted, with a fixed number of descriptors and a
// fixed amount of memory: what lies too deep is first moved up to the top of the
// tree. File systems mounted below the tree are not entered.
//
// The package does not know what it deletes, and counts nothing: who wants to is
// told of each file.
package rmtree
