// Package executor turns derived paths into valid store objects. It plans: which
// derivations have to be built and in what order, what is valid already, who
// waits for whom, how many builders run at once. One attempt at one derivation
// is the business of package build below it.
//
// Work is done by goals. There is at most one goal for each thing to be done at
// any moment, however many requests want it; each of them waits for the goal
// and shares its outcome, and a goal that nobody waits for any more is
// cancelled. Three lifetimes meet here: a request waits, a goal lives while it
// has waiters, and the executor bounds them all.
package executor
