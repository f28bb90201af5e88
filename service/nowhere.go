package service

import (
	"context"
	"errors"
	"io"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/store"
)

// nowhere is the store of clients that are refused: it has nothing but a directory.
type nowhere struct{ dir nix.StoreDir }

// viewed is the store of a client.
type viewed = store.Store

var errNowhere = errors.New("there is no store")

// Dir implements store.Store.
func (n nowhere) Dir() nix.StoreDir { return n.dir }

// PathInfo implements store.Source.
func (n nowhere) PathInfo(context.Context, nix.StorePath) (*nix.PathInfo, error) {
	return nil, errNowhere
}

// NAR implements store.Source.
func (n nowhere) NAR(context.Context, nix.StorePath, io.Writer) error { return errNowhere }

// Add implements store.Sink.
func (n nowhere) Add(context.Context, *nix.PathInfo, io.Reader, store.AddOptions) error {
	return errNowhere
}
