// Package build makes one attempt at one derivation whose inputs are all there:
// it describes the sandbox that the derivation asks for, runs the builder in
// it, collects what came out and registers it. Whatever the attempt creates on
// the way is gone when it returns, and is found by the next start of the program
// if it never returns.
//
// It decides nothing about when or whether to build.
package build
