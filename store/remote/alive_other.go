//go:build !unix

package remote

import (
	"errors"
	"io"
)

var errPeerGone, errTryAgain = errors.ErrUnsupported, errors.ErrUnsupported

func alive(io.ReadWriteCloser) bool { return true }
