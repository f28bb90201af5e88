package serve

import (
	"errors"
	"fmt"
	"io"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/wire"
	"github.com/kilnbuild/kiln/wire/worker"
)

// Version is a version of the protocol: the major one times 256, and the minor one.
type Version uint64

// The versions that this package speaks.
const (
	Oldest Version = 2 << 8
	Newest Version = 2<<8 | 8 // Nix since 2.35

	// WithNarSize is the first version in which an object that is added comes with
	// its description before it (Nix since 2.1).
	WithNarSize Version = 2<<8 | 5
)

// Major must be the same on both sides.
func (v Version) Major() uint64 { return uint64(v) >> 8 }

// Minor is the part that grows.
func (v Version) Minor() uint64 { return uint64(v) & 0xff }

func (v Version) String() string { return fmt.Sprintf("%d.%d", v.Major(), v.Minor()) }

// What opens a connection, in each direction.
const (
	clientMagic = 0x390c9deb
	serverMagic = 0x5452eecb
)

// ErrProtocol is wrapped by the errors of a handshake with something that does not
// speak this protocol, or none of its versions that this package does.
var ErrProtocol = errors.New("protocol mismatch")

// An Encoder writes parts of commands and replies.
type Encoder struct {
	*worker.Encoder
	// Version is what the handshake agreed on.
	Version Version
}

// A Decoder reads parts of commands and replies.
type Decoder struct {
	*worker.Decoder
	// Version is what the handshake agreed on.
	Version Version
}

// NewEncoder makes an Encoder to w, for store paths in dir. Before a handshake it is of
// the newest version.
func NewEncoder(w io.Writer, dir nix.StoreDir) *Encoder {
	e := &Encoder{Encoder: &worker.Encoder{Writer: wire.NewWriter(w), Protocol: worker.Protocol{Dir: dir}}}
	e.setVersion(Newest)
	return e
}

// NewDecoder makes a Decoder of r, for store paths in dir. Before a handshake it is of
// the newest version.
func NewDecoder(r io.Reader, dir nix.StoreDir, limits wire.Limits) *Decoder {
	d := &Decoder{Decoder: &worker.Decoder{Reader: wire.NewReader(r, limits), Protocol: worker.Protocol{Dir: dir}}}
	d.setVersion(Newest)
	return d
}

func (e *Encoder) setVersion(v Version) {
	e.Version = v
	e.Encoder.Version, e.Features = parts(v)
}

func (d *Decoder) setVersion(v Version) {
	d.Version = v
	d.Decoder.Version, d.Features = parts(v)
}

func (e *Encoder) since(minor uint64) bool { return e.Version.Minor() >= minor }
func (d *Decoder) since(minor uint64) bool { return d.Version.Minor() >= minor }

// parts is the worker protocol whose parts look as those of this one do.
func parts(v Version) (worker.Version, []string) {
	switch minor := v.Minor(); {
	case minor >= 8:
		return 1<<8 | 36, []string{worker.RealisationWithPath}
	case minor >= 6:
		return 1<<8 | 36, nil
	}
	return withoutTimes, nil
}

// withoutTimes is a version of the worker protocol in which results have no times, and
// derived paths are as they always are in this one.
const withoutTimes worker.Version = 1<<8 | 27

// AcceptHandshake does the server's part of the handshake. own is the version that it
// speaks. It sets the version of both e and d. An error that wraps ErrProtocol says
// that they cannot talk.
func AcceptHandshake(d *Decoder, e *Encoder, own Version) error {
	if magic := d.Uint64(); d.Err() == nil && magic != clientMagic {
		return fmt.Errorf("greet client: its first word is %#x: %w", magic, ErrProtocol)
	}
	if err := d.Err(); err != nil {
		return fmt.Errorf("greet client: %w", err)
	}
	e.Uint64(serverMagic)
	e.Uint64(uint64(own))
	if err := e.Flush(); err != nil {
		return fmt.Errorf("greet client: %w", err)
	}
	theirs := Version(d.Uint64())
	if err := d.Err(); err != nil {
		return fmt.Errorf("greet client: %w", err)
	}
	if err := agree(d, e, own, theirs); err != nil {
		return fmt.Errorf("greet client: %w", err)
	}
	return nil
}

// Handshake does the client's part of the handshake. own is the version that it speaks.
// It sets the version of both e and d.
func Handshake(d *Decoder, e *Encoder, own Version) error {
	e.Uint64(clientMagic)
	e.Uint64(uint64(own))
	if err := e.Flush(); err != nil {
		return fmt.Errorf("greet server: %w", err)
	}
	if magic := d.Uint64(); d.Err() == nil && magic != serverMagic {
		return fmt.Errorf("greet server: it begins with the word %#x, perhaps what a shell prints at the login: %w", magic, ErrProtocol)
	}
	theirs := Version(d.Uint64())
	if err := d.Err(); err != nil {
		return fmt.Errorf("greet server: %w", err)
	}
	if err := agree(d, e, own, theirs); err != nil {
		return fmt.Errorf("greet server: %w", err)
	}
	return nil
}

// agree sets the version to the older one of both sides.
func agree(d *Decoder, e *Encoder, ours, theirs Version) error {
	if theirs.Major() != ours.Major() {
		return fmt.Errorf("the other side speaks version %v, this one %v to %v: %w", theirs, Oldest, ours, ErrProtocol)
	}
	d.setVersion(min(ours, theirs))
	e.setVersion(d.Version)
	return nil
}
