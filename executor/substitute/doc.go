// Package substitute has the stores that objects are fetched from instead of being
// built: in which order they are asked, which of them has an object, and whether it may
// be believed (Nix: getDefaultSubstituters, PathSubstitutionGoal).
//
// Fetching is for others to do: what is found is a store.Source of one object.
package substitute
