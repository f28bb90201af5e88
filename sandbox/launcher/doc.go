// Package launcher is the small process that sandboxes are cloned from, and the
// bytes that a sandbox's set-up is told to it in.
//
// # The process
//
// It is the program's own binary under the name Argv0. Cloning copies page
// tables, so what clones should be small: the launcher is entered by this
// package's init function, before most other packages of the binary have been
// initialised, and never returns from it. For that to work the package must
// import nothing but syscall, runtime and unsafe. (Go initialises packages in
// the order of their import paths as far as their imports allow; "os" comes
// after this one, and so does everything large. An agreeable consequence: the
// limit on open files, which package os raises when it is initialised, is still
// the one that the program was started with, and builders get it.)
//
// # One launch
//
//	client                      launcher                      child
//	  | Request, descriptors →    |                             |
//	  |                           | map and link the program    |
//	  |                           | clone ────────────────────→ | (signals blocked)
//	  |                           | uid_map, setgroups, gid_map | reads SlotGo
//	  |                           | one byte ─────────────────→ | runs the program
//	  |                           |                             |   …
//	  |                           | ←──────── byte on SlotReady | (if Siblings)
//	  |                           | opens its namespaces        | reads SlotGo
//	  |                           | one byte ─────────────────→ |   …
//	  |                           | ←──── {index, errno} or EOF | SlotError: a call failed, or exec
//	  | ← Started or Failed       |                             |
//	  |                           | ←─────────────── wait4 ──── |
//	  | ← Exited                  |                             |
//
// A child that enters the namespaces of another one cannot be in its pid namespace
// itself, so it makes a successor (CLONE_PARENT) that is. With Successor in the request
// the byte on SlotReady is four, the successor's pid, and all that follows is about it.
//
// The socket is the launcher's life line: it exits when the other end is closed,
// and what it launched dies with it (PR_SET_PDEATHSIG). Each launch has a thread
// of its own until its child is reaped, because that signal is sent when the
// thread ends that cloned.
package launcher
