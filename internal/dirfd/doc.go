// Package dirfd has the system calls that work on one name in one open
// directory.
//
// Whoever can write to a directory can put a symbolic link in the place of
// anything in it, at any moment. Code that walks such trees as a privileged
// user is safe only if it never resolves a path: it opens a directory, holds
// the descriptor, and from there names single entries without following links.
// Every function here refuses a name that is more than one entry, so that code
// which makes its calls through this package cannot leave the directories that
// it has opened. It also works on trees whose paths are longer than the kernel
// takes.
//
// Descriptors are plain ints: a walk opens one a file, and an os.File costs more
// than the calls themselves. All are close-on-exec. Errors are bare system call
// errors; the caller knows the path and adds it. Calls that a signal
// interrupted are repeated.
//
// The package knows nothing of archives, stores or what is to be done with the
// tree.
package dirfd
