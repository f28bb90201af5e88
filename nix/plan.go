package nix

import "context"

// A Planner tells what a Builder would do. Some are both.
type Planner interface {
	// Plan says what Build would do for paths, without doing it.
	Plan(ctx context.Context, paths []DerivedPath) (*Plan, error)
}

// Plan is what a request would do.
type Plan struct {
	// Build has the derivations that would be built, each after those that it
	// needs.
	Build []StorePath
	// Fetch has the objects that would be fetched, with a download of so many bytes,
	// as far as that is known, and so many bytes of archives.
	Fetch        []StorePath
	DownloadSize int64
	NARSize      int64
	// Unknown has what is missing and cannot be made.
	Unknown []StorePath
	// Warnings say what may be missing in the plan, and why.
	Warnings []string
}
