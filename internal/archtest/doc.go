// Package archtest holds the rules about how the packages of this module may
// depend on each other, and some about their form, as tests: which way imports
// go, who alone may use what, one package comment each, no internal type in an
// exported signature, no file that nobody wants to read to its end.
//
// A new package has to be entered in the table of layers. A rule that is in the
// way has its reason next to it: change both, or neither.
package archtest
