//go:build !linux && !darwin

package socket

import "errors"

func credentials(int) (Peer, error) { return Peer{}, errors.ErrUnsupported }
