package export

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/kilnbuild/kiln/internal/spool"
	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/nar"
	"github.com/kilnbuild/kiln/store"
	"github.com/kilnbuild/kiln/wire/worker"
)

// ErrFormat is wrapped by the errors that say that what was read is no export.
var ErrFormat = errors.New("input doesn't look like something created by 'nix-store --export'")

// Options say how objects are added. The zero value believes whoever made the export.
type Options struct {
	// CheckSignatures is store.AddOptions.CheckSignatures. An export has no signatures.
	CheckSignatures bool
	// TempDir is where archives are kept until it is known what they are of, if the
	// store is no store.LateSink; "" for the system's directory. Limit is how many bytes
	// one may have there, 0 for any number.
	TempDir string
	Limit   int64
}

// Read adds what it reads from d, up to the end of the export and not further, and gives
// the paths in the order in which they came. Objects that came before an error stay.
func Read(ctx context.Context, d *worker.Decoder, to store.Sink, opts Options) ([]nix.StorePath, error) {
	var added []nix.StorePath
	for {
		d.Begin()
		more := d.Uint64()
		if err := d.Err(); err != nil {
			return added, fmt.Errorf("import: %w", err)
		}
		switch more {
		case end:
			return added, nil
		case another:
		default:
			return added, fmt.Errorf("import: %w", ErrFormat)
		}
		p, err := read(ctx, d, to, opts)
		if err != nil {
			return added, fmt.Errorf("import: %w", err)
		}
		added = append(added, p)
	}
}

func read(ctx context.Context, d *worker.Decoder, to store.Sink, opts Options) (nix.StorePath, error) {
	var info *nix.PathInfo
	describe := func(hash nix.Hash, size int64) (*nix.PathInfo, error) {
		var err error
		if info, err = description(d); err == nil {
			info.NARHash, info.NARSize = hash, size
		}
		return info, err
	}
	add := store.AddOptions{CheckSignatures: opts.CheckSignatures}
	var err error
	if late, ok := to.(store.LateSink); ok {
		err = late.AddLate(ctx, d, describe, add)
	} else {
		err = addSpooled(ctx, d, to, describe, add, opts)
	}
	if err != nil {
		return "", err
	}
	return info.Path, nil
}

// description reads what is known of an object, which comes behind its archive.
func description(d *worker.Decoder) (*nix.PathInfo, error) {
	d.Begin()
	if word := d.Uint64(); d.Err() == nil && word != magic {
		return nil, errors.New("Nix archive cannot be imported; wrong format")
	}
	info := &nix.PathInfo{Path: d.StorePath(), References: d.PathSet(), Deriver: d.OptionalPath()}
	if d.Uint64() == 1 {
		d.Bytes() // a signature of a kind that nobody makes any more
	}
	return info, d.Err()
}

// addSpooled keeps an archive until it is known what it is of.
func addSpooled(ctx context.Context, d *worker.Decoder, to store.Sink, describe func(nix.Hash, int64) (*nix.PathInfo, error),
	add store.AddOptions, opts Options) error {
	keep := &spool.Spool{Dir: opts.TempDir, Limit: opts.Limit}
	defer keep.Close()
	sum := nix.SHA256.New()
	size, err := nar.CopyArchive(io.MultiWriter(keep, sum), d, nar.Limits{})
	if err != nil {
		return err
	}
	info, err := describe(nix.SumHash(nix.SHA256, sum), size)
	if err != nil {
		return err
	}
	return to.Add(ctx, info, bufio.NewReader(keep.Reader()), add)
}
