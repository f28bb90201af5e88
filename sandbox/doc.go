// Package sandbox runs one program apart from the machine it runs on. A Spec
// says what the program is and what it may see; Stage makes the directory that
// becomes its root; compile turns the rest into a program of system calls; a
// Launcher runs it, and gives a Process to wait for. Every Process has a Report
// of what was asked for and what is in force.
//
// It is mechanism: no word of Nix is in it.
package sandbox
