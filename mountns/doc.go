// Package mountns has mounts and mount namespaces as data and verbs: what is
// mounted where, written as instructions of a program of system calls; the steps
// that make a directory a process's root; and the sibling namespace, through
// which paths are attached to a sandbox that is running already.
//
// It knows the kernel and nothing else.
package mountns
