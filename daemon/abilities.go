package daemon

import (
	"context"
	"io"
	"iter"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/wire/worker"
)

// The interfaces here are what a store may be able to do for clients, besides those
// of package store. They are found by type assertion.

// A PathLister knows all its objects.
type PathLister interface {
	// AllValidPaths gives them in any order; the first error ends it.
	AllValidPaths(ctx context.Context) iter.Seq2[nix.StorePath, error]
}

// A HashPartFinder finds objects by their hash part.
type HashPartFinder interface {
	// PathFromHashPart gives an error that wraps store.ErrNotFound if there is none.
	PathFromHashPart(ctx context.Context, hashPart string) (nix.StorePath, error)
}

// A DeriverSource knows which derivations have an object as an output.
type DeriverSource interface {
	ValidDerivers(ctx context.Context, p nix.StorePath) ([]nix.StorePath, error)
}

// A DerivationSource has derivations without their being read from archives.
type DerivationSource interface {
	// Derivation gives an error that wraps store.ErrNotFound if it is not valid.
	Derivation(ctx context.Context, drv nix.StorePath) (*nix.Derivation, error)
}

// A ContentAdder adds objects whose path follows from their content, without their
// being kept somewhere else first.
type ContentAdder interface {
	// AddContent reads dump to its end: an archive, or with the methods Flat and Text
	// the bytes of the file. When it returns an error, it need not have.
	AddContent(ctx context.Context, o *worker.AddToStore, dump io.Reader) (*nix.PathInfo, error)
}

// A Substituter knows what could be fetched. The Builder fetches it.
type Substituter interface {
	// Substitutable gives what is known of those paths that can be fetched. An object
	// with a content address may be meant even where its path is another one there.
	Substitutable(ctx context.Context, paths map[nix.StorePath]nix.ContentAddress) ([]worker.Substitutable, error)
	// SubstitutablePaths gives those of paths that can be fetched from where one may ask
	// for many, in their order.
	SubstitutablePaths(ctx context.Context, paths []nix.StorePath) ([]nix.StorePath, error)
}

// An Ensurer says itself what comes of requests to make objects valid. Of others the
// Builder is asked.
type Ensurer interface {
	EnsurePath(ctx context.Context, p nix.StorePath) error
}

// A LegacyRealisationStore knows realisations by the names that they have for
// clients before Nix 2.35, "sha256:<base16>!<output>".
type LegacyRealisationStore interface {
	// LegacyRealisation gives an error that wraps store.ErrNotFound when nothing is
	// known.
	LegacyRealisation(ctx context.Context, id string) (*worker.LegacyRealisation, error)
	RegisterLegacyRealisation(ctx context.Context, r *worker.LegacyRealisation) error
}

// A RealisationVerifier knows which keys are trusted to say what outputs of derivations
// are. Of others clients must be trusted themselves.
type RealisationVerifier interface {
	// VerifyRealisation tells whether one of the signatures of a fingerprint (package
	// nix/sign) is by a key that is trusted.
	VerifyRealisation(fingerprint string, signatures []string) error
}

// A Signer takes further signatures of its objects.
type Signer interface {
	AddSignatures(ctx context.Context, p nix.StorePath, signatures []string) error
}

// A LogAdder keeps logs that clients bring with them.
type LogAdder interface {
	// AddBuildLog reads the uncompressed log to its end.
	AddBuildLog(ctx context.Context, drv nix.StorePath, log io.Reader) error
}

// A Rooter keeps store objects alive for longer than the process.
type Rooter interface {
	// AddIndirectRoot makes whatever the symbolic link points to a root, for as long
	// as it does. link is an absolute path.
	AddIndirectRoot(ctx context.Context, link string) error
	// AddPermRoot makes the link, which is below the directory of roots.
	AddPermRoot(ctx context.Context, link string, p nix.StorePath) error
}

// A Root is a root, and whether an untrusted client may know what it is.
type Root struct {
	worker.Root
	// Private is set for what processes have open and the like.
	Private bool
}

// A Collector deletes what nobody needs.
type Collector interface {
	Roots(ctx context.Context) ([]Root, error)
	// CollectGarbage is never asked to ignore whether objects are alive.
	CollectGarbage(ctx context.Context, o *worker.CollectGarbage) (*worker.Collected, error)
}

// An Optimiser saves room by linking equal files to each other.
type Optimiser interface {
	OptimiseStore(ctx context.Context) error
}

// A Verifier compares the store with what it should be.
type Verifier interface {
	// VerifyStore tells whether there is anything left that is wrong, of which it
	// tells log.
	VerifyStore(ctx context.Context, o *worker.VerifyStore, log nix.LogSink) (wrong bool, err error)
}
