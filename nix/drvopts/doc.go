// Package drvopts knows the attributes of a derivation that say how it is to be
// built and what its outputs may be (Nix manual, "Advanced attributes"): they
// stand among the variables, or in the structured attributes. It also makes the
// files through which builders read structured attributes.
//
// It knows what is asked for. Whether that is allowed, and doing it, is for
// those who build.
package drvopts
