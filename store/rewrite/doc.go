// Package rewrite makes objects content-addressed: what they refer to is rewritten to
// content-addressed objects of the same content, and then they are called what their
// content says. Such objects need no signature (Nix: nix store make-content-addressed).
package rewrite
