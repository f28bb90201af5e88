// Package drvjson reads and writes derivations as JSON, as `nix derivation show`
// prints them and `nix derivation add` reads them.
//
// It writes the newest form (version 4, Nix 2.33 and later) and reads every form
// that a release since 2.4 wrote:
//
//   - without a version, up to 2.31: full store paths, inputs in "inputSrcs" and
//     "inputDrvs"; the method of a content address stands before the algorithm
//     ("r:sha256") up to 2.22, and in a field of its own after that; the name is
//     missing up to 2.14; structured attributes are the variable "__json" up to
//     2.29;
//   - version 3, 2.32: base names in place of full paths, and fixed outputs
//     without their path;
//   - version 4: the inputs in one object, and hashes in the form of
//     subresource integrity.
//
// JSON holds less than a derivation file: text that is not UTF-8 cannot be
// written, and structured attributes are printed anew, in Nix's canonical form.
// For derivations of current Nix versions that is the text that they had.
package drvjson
