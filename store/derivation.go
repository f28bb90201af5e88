package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/aterm"
	"github.com/kilnbuild/kiln/nix/nar"
)

// maxDerivation bounds the archive of a derivation that is read, in bytes: of the largest
// file that can be parsed, and what an archive of one file has besides.
const maxDerivation = aterm.DefaultMaxBytes + 1<<10

// Derivation reads a derivation that is valid in a store. For one that is not, the error
// wraps ErrNotFound.
func Derivation(ctx context.Context, s Store, p nix.StorePath) (*nix.Derivation, error) {
	var archive bytes.Buffer
	if err := s.NAR(ctx, p, &limited{&archive, maxDerivation}); errors.Is(err, ErrNotFound) {
		return nil, err
	} else if err != nil {
		return nil, fmt.Errorf("read derivation '%s': %w", s.Dir().Join(p), err)
	}
	r := nar.NewReader(&archive, nar.Limits{})
	h, err := r.Next()
	if err == nil && h.Type != nar.Regular {
		err = errors.New("it is not a file")
	}
	var content []byte
	if err == nil {
		content, err = io.ReadAll(r)
	}
	if err != nil {
		return nil, fmt.Errorf("read derivation '%s': %w", s.Dir().Join(p), err)
	}
	return aterm.Parse(s.Dir(), strings.TrimSuffix(p.Name(), nix.DrvExtension), content, aterm.Limits{})
}

// limited fails when more is written than may be.
type limited struct {
	w    io.Writer
	left int
}

func (l *limited) Write(p []byte) (int, error) {
	if l.left -= len(p); l.left < 0 {
		return 0, errors.New("it is too large")
	}
	return l.w.Write(p)
}
