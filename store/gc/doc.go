// Package gc tells which objects of a local store somebody needs, and why, and
// deletes the others.
//
// It has three parts that know little of each other. FindRoots says who needs
// what: links below the state directory, processes, files that processes list
// what they are about to need in. Mark follows the references from there, and is
// a function of its arguments. Collect puts both together, and deletes what is
// left over, while builds, Nix and other kilns use the store.
//
// How a collector and those who use the store get along (one lock, a socket,
// deletion through descriptors) is a matter of store/local, which has no opinion
// about what is garbage. What is garbage is defined by Nix (manual, "Garbage
// Collection"; versions 2.8 to 2.34), and decided as Nix does.
package gc
