//go:build !linux

package mountns

import (
	"context"
	"errors"
)

// Attachment is something of the machine that shall appear in a running sandbox.
type Attachment struct {
	Source string
	Name   string
}

// Namespace is the sibling of a running sandbox's mount namespace, of which there
// are none on this system.
type Namespace struct{}

// Attach says that it cannot be done.
func (n *Namespace) Attach(context.Context, ...Attachment) error { return errors.ErrUnsupported }

// Close does nothing.
func (n *Namespace) Close() error { return nil }
