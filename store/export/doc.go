// Package export is the form in which nix-store --export prints objects and nix-store
// --import reads them: one after the other, each with its archive first, and what is
// known of it behind that (Nix: libstore/export-import).
package export
