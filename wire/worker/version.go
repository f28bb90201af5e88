package worker

import (
	"errors"
	"fmt"
	"slices"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/wire"
)

// Version is a version of the protocol: the major one times 256, and the minor one.
type Version uint64

// The versions that this package speaks.
const (
	Oldest Version = 1<<8 | 18 // before Nix 2.0
	Newest Version = 1<<8 | 38 // Nix since 2.24; what is newer are features
)

// Major must be the same on both sides.
func (v Version) Major() uint64 { return uint64(v) >> 8 }

// Minor is the part that grows.
func (v Version) Minor() uint64 { return uint64(v) & 0xff }

func (v Version) String() string { return fmt.Sprintf("%d.%d", v.Major(), v.Minor()) }

// What opens a connection, in each direction.
const (
	clientMagic = 0x6e697863
	serverMagic = 0x6478696f
)

// The features that this package knows.
const (
	// RealisationWithPath names outputs of derivations by the derivation's path and
	// not by a hash of the derivation.
	RealisationWithPath = "realisation-with-path-not-hash"
	// DeleteSpecificReferrers has other parameters of CollectGarbage.
	DeleteSpecificReferrers = "delete-dead-specific-referrers"
)

// Features are the features that a server offers: those that change the protocol
// in ways that this package knows.
func Features() []string { return []string{DeleteSpecificReferrers, RealisationWithPath} }

// Trust is what a server says of its client.
type Trust uint64

// What a server can say.
const (
	TrustUnknown Trust = 0
	Trusted      Trust = 1
	NotTrusted   Trust = 2
)

// Protocol is what both sides of a connection know: the store directory, and what
// the handshake agreed on.
type Protocol struct {
	Dir      nix.StoreDir
	Version  Version
	Features []string
}

// Has tells whether a feature was agreed on.
func (p *Protocol) Has(feature string) bool { return slices.Contains(p.Features, feature) }

// since tells whether the protocol is of the minor version or a later one.
func (p *Protocol) since(minor uint64) bool { return p.Version.Minor() >= minor }

// ErrProtocol is wrapped by the errors of a handshake with something that does not
// speak this protocol, or none of its versions that this package does.
var ErrProtocol = errors.New("protocol mismatch")

// Limits of the handshake.
const (
	maxFeatures    = 64
	maxFeatureName = 256 // bytes
	maxNixVersion  = 256 // bytes
)

// Server is what a server says of itself in the handshake.
type Server struct {
	Version    Version  // Newest, unless it plays an older one
	Features   []string // those that it offers
	NixVersion string   // its program's, as "2.34.8"
	Trust      Trust
}

// AcceptHandshake does the server's part of the handshake, up to where its messages
// begin: the client now waits for Last or an error. It sets the protocol of both e
// and d. An error that wraps ErrProtocol says that they cannot talk.
func AcceptHandshake(d *Decoder, e *Encoder, s Server) error {
	if magic := d.Uint64(); d.Err() == nil && magic != clientMagic {
		return fmt.Errorf("greet client: its first word is %#x: %w", magic, ErrProtocol)
	}
	if err := d.Err(); err != nil {
		return fmt.Errorf("greet client: %w", err)
	}
	// Old clients wait for this before they say their version.
	e.Uint64(serverMagic)
	e.Uint64(uint64(s.Version))
	if err := e.Flush(); err != nil {
		return fmt.Errorf("greet client: %w", err)
	}
	theirs := Version(d.Uint64())
	if err := d.Err(); err != nil {
		return fmt.Errorf("greet client: %w", err)
	}
	if err := agree(d, e, s.Version, theirs); err != nil {
		return fmt.Errorf("greet client: %w", err)
	}
	if d.since(38) {
		offered := readFeatures(d)
		if err := d.Err(); err != nil {
			return fmt.Errorf("greet client: %w", err)
		}
		e.TextSet(s.Features)
		setFeatures(d, e, s.Features, offered)
		if err := e.Flush(); err != nil {
			return fmt.Errorf("greet client: %w", err)
		}
	}
	if d.Uint64() != 0 { // wants a processor to itself, which nobody has done for long
		d.Uint64()
	}
	d.Uint64() // wants space reserved, likewise
	if err := d.Err(); err != nil {
		return fmt.Errorf("greet client: %w", err)
	}
	if d.since(33) {
		e.Text(s.NixVersion)
	}
	if d.since(35) {
		e.Uint64(uint64(s.Trust))
	}
	return e.Err()
}

// Handshake does the client's part of the handshake, up to where the server's
// messages begin. own is the version that it speaks, and features are those that
// it offers. It sets the protocol of both e and d.
func Handshake(d *Decoder, e *Encoder, own Version, features []string) (Server, error) {
	e.Uint64(clientMagic)
	e.Uint64(uint64(own))
	if err := e.Flush(); err != nil {
		return Server{}, fmt.Errorf("greet daemon: %w", err)
	}
	if magic := d.Uint64(); d.Err() == nil && magic != serverMagic {
		return Server{}, fmt.Errorf("greet daemon: its first word is %#x: %w", magic, ErrProtocol)
	}
	s := Server{Version: Version(d.Uint64())}
	if err := d.Err(); err != nil {
		return Server{}, fmt.Errorf("greet daemon: %w", err)
	}
	if err := agree(d, e, own, s.Version); err != nil {
		return Server{}, fmt.Errorf("greet daemon: %w", err)
	}
	if d.since(38) {
		e.TextSet(features)
		if err := e.Flush(); err != nil {
			return Server{}, fmt.Errorf("greet daemon: %w", err)
		}
		s.Features = readFeatures(d)
		setFeatures(d, e, features, s.Features)
	}
	e.Uint64(0)
	e.Uint64(0)
	if err := e.Flush(); err != nil {
		return Server{}, fmt.Errorf("greet daemon: %w", err)
	}
	if d.since(33) {
		s.NixVersion = string(d.BytesUpTo(maxNixVersion))
	}
	if d.since(35) {
		s.Trust = Trust(d.Number(uint64(NotTrusted)))
	}
	if err := d.Err(); err != nil {
		return Server{}, fmt.Errorf("greet daemon: %w", err)
	}
	return s, nil
}

// agree sets the version to the older one of both sides.
func agree(d *Decoder, e *Encoder, ours, theirs Version) error {
	if theirs.Major() != ours.Major() || theirs < Oldest {
		return fmt.Errorf("the other side speaks version %v, this one %v to %v: %w", theirs, Oldest, ours, ErrProtocol)
	}
	d.Version = min(ours, theirs)
	e.Version = d.Version
	return nil
}

func readFeatures(d *Decoder) []string {
	n := d.Number(maxFeatures)
	var features []string
	for range n {
		features = append(features, string(d.BytesUpTo(maxFeatureName)))
	}
	return features
}

func setFeatures(d *Decoder, e *Encoder, ours, theirs []string) {
	d.Features = nil
	for _, f := range ours {
		if slices.Contains(theirs, f) {
			d.Features = append(d.Features, f)
		}
	}
	e.Features = d.Features
}

// An Encoder writes parts of messages.
type Encoder struct {
	*wire.Writer
	Protocol
	// LegacyID gives an output of a derivation the name that it has without
	// RealisationWithPath: "sha256:<base16>!<output>". If it is nil, or gives "",
	// names are made up where they do not matter.
	LegacyID func(nix.DrvOutput) string
}

// A Decoder reads parts of messages.
type Decoder struct {
	*wire.Reader
	Protocol
}
