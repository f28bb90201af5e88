package store

import (
	"context"
	"errors"
	"io"

	"github.com/kilnbuild/kiln/nix"
)

// ErrNotFound says that a store object is not valid in the store. Errors that
// wrap it name the object.
var ErrNotFound = errors.New("path is not valid")

// A Source has store objects to read. It is safe for concurrent use.
type Source interface {
	// PathInfo tells about a valid object. An error that wraps ErrNotFound says
	// that it is not there. The result is the caller's.
	PathInfo(ctx context.Context, p nix.StorePath) (*nix.PathInfo, error)
	// NAR writes the archive of a valid object to w, in constant memory. When it
	// returns an error, w may have been given a part of it.
	NAR(ctx context.Context, p nix.StorePath, w io.Writer) error
}

// A KnownSource reads objects that it has told of faster than others.
type KnownSource interface {
	// KnownNAR is Source.NAR for an object that PathInfo, or PathInfos, has told of: it is
	// not looked up once more. For one that has gone since then, any error may come, or an
	// archive that is not that of info, which the caller checks.
	KnownNAR(ctx context.Context, info *nix.PathInfo, w io.Writer) error
}

// A ForgetfulSource remembers what it has told of objects.
type ForgetfulSource interface {
	// Forget has it look again: the archive was not as it had told.
	Forget(p nix.StorePath)
}

// A Sink takes store objects. It is safe for concurrent use.
type Sink interface {
	// Add makes the object of info valid with the archive that nar gives. It
	// reads nar to the end of the archive and no further. The archive must have
	// the hash and size of info, and the references must be valid or the object
	// itself. An object that is valid already is left as it is, unless
	// opts.Repair; nar is read to the archive's end all the same.
	//
	// Nothing is visible before everything has been checked, and nothing is left
	// after an error.
	Add(ctx context.Context, info *nix.PathInfo, nar io.Reader, opts AddOptions) error
}

// AddOptions are the choices when adding. The zero value is right for objects
// of a trusted origin.
type AddOptions struct {
	Repair bool // replace the object if it is there
	// CheckSignatures refuses objects that are neither content-addressed nor
	// signed by a key that the store trusts.
	CheckSignatures bool
}

// A Store is a Source and a Sink with a store directory.
type Store interface {
	Source
	Sink
	// Dir is the logical store directory.
	Dir() nix.StoreDir
}

// A LateSink takes objects whose description comes after their archive.
type LateSink interface {
	// AddLate reads an archive, to its end and no further. Then it has describe tell
	// what the archive is of, for the hash and the size that it has, and adds that as
	// Sink.Add does. An error of describe ends it.
	AddLate(ctx context.Context, nar io.Reader, describe func(narHash nix.Hash, narSize int64) (*nix.PathInfo, error), opts AddOptions) error
}

// A BatchSource answers about many objects for the price of one.
type BatchSource interface {
	// ValidPaths gives those of paths that are valid, in their order.
	ValidPaths(ctx context.Context, paths []nix.StorePath) ([]nix.StorePath, error)
}

// An InfoSource tells about many objects for the price of one.
type InfoSource interface {
	// PathInfos is Source.PathInfo for each of paths, in their order. That one of
	// them is not valid is an error.
	PathInfos(ctx context.Context, paths []nix.StorePath) ([]*nix.PathInfo, error)
}

// A ReferrerSource knows the inverse of references.
type ReferrerSource interface {
	// Referrers gives the valid objects that refer to p, sorted; p itself too,
	// if it refers to itself.
	Referrers(ctx context.Context, p nix.StorePath) ([]nix.StorePath, error)
}

// A TempRooter protects objects from the garbage collector until this process
// ends or the store is closed, whether they are valid yet or not.
type TempRooter interface {
	AddTempRoot(ctx context.Context, paths ...nix.StorePath) error
}

// A RealisationStore keeps which object an output of a content-addressed
// derivation turned out to be.
type RealisationStore interface {
	// Realisation gives an error that wraps ErrNotFound when nothing is known.
	Realisation(ctx context.Context, id nix.DrvOutput) (*nix.Realisation, error)
	RegisterRealisation(ctx context.Context, r *nix.Realisation) error
}

// A RealisationSink takes realisations of derivations that it need not have.
type RealisationSink interface {
	// AddRealisation is RealisationStore.RegisterRealisation. legacy is what Nix before
	// 2.35 calls the output, by which some stores keep it: "sha256:<base16>!<output>".
	AddRealisation(ctx context.Context, r *nix.Realisation, legacy string) error
}

// A LogStore keeps what builders printed.
type LogStore interface {
	// BuildLog gives the log of a derivation, uncompressed; the caller closes it.
	// An error that wraps ErrNotFound says that there is none.
	BuildLog(ctx context.Context, drv nix.StorePath) (io.ReadCloser, error)
}
