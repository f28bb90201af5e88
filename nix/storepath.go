package nix

import (
	"crypto/sha256"
	"fmt"
	"path"
	"strings"

	"github.com/kilnbuild/kiln/nix/base32"
)

// DefaultStoreDir is the store directory of nearly every Nix installation. All
// published binaries have it compiled into them.
const DefaultStoreDir StoreDir = "/nix/store"

// Lengths of the two parts of a store path's base name, in bytes (Nix manual,
// "Store Path").
const (
	HashPartLen   = 32
	MaxNameLen    = 211
	digestByteLen = 20
)

// StoreDir is the logical store directory: the one that is printed in store
// paths and goes into their hashes. Where the files are on this machine may be
// somewhere else (a chroot store). It is an absolute, clean path.
type StoreDir string

// ParseStoreDir checks that dir is absolute and clean.
func ParseStoreDir(dir string) (StoreDir, error) {
	if !path.IsAbs(dir) || path.Clean(dir) != dir || dir == "/" {
		return "", fmt.Errorf("parse store directory %q: not a clean absolute path", dir)
	}
	return StoreDir(dir), nil
}

// Join gives the full path of p, as it stands in databases, environments and
// protocols.
func (d StoreDir) Join(p StorePath) string { return string(d) + "/" + string(p) }

// Parse reads the full path of a store object, for example
// "/nix/store/ivlnvab4q9c7wbsvbfsvgaa15j9p6206-hello". Nothing may follow the
// name. The form must be canonical: no doubled slash, no "..".
func (d StoreDir) Parse(full string) (StorePath, error) {
	base, ok := strings.CutPrefix(full, string(d)+"/")
	if !ok {
		return "", fmt.Errorf("path '%s' is not in the Nix store", full)
	}
	p, err := ParseStorePath(base)
	if err != nil {
		return "", fmt.Errorf("path '%s' is not a valid store path: %w", full, err)
	}
	return p, nil
}

// Split reads a path at or below a store object and gives the object and what
// follows it ("" or a string that begins with "/").
func (d StoreDir) Split(full string) (p StorePath, rest string, err error) {
	base, ok := strings.CutPrefix(full, string(d)+"/")
	if !ok {
		return "", "", fmt.Errorf("path '%s' is not in the Nix store", full)
	}
	if i := strings.IndexByte(base, '/'); i >= 0 {
		base, rest = base[:i], base[i:]
	}
	p, err = ParseStorePath(base)
	if err != nil {
		return "", "", fmt.Errorf("path '%s' is not in the Nix store: %w", full, err)
	}
	return p, rest, nil
}

// Contains tells whether full is a path below the store directory, whatever
// stands there.
func (d StoreDir) Contains(full string) bool {
	return strings.HasPrefix(full, string(d)+"/") && len(full) > len(d)+1
}

// StorePath is the base name of a store object, "<hash part>-<name>". Its zero
// value stands for "none". Values made by the Parse functions and by the
// Make functions are valid; a conversion from string is a claim of the caller.
type StorePath string

// ParseStorePath reads a base name and checks it against the rules of the Nix
// manual ("Store Path"): 32 characters of Nix's base32, a dash, and a name.
func ParseStorePath(base string) (StorePath, error) {
	if len(base) < HashPartLen+2 || base[HashPartLen] != '-' {
		return "", fmt.Errorf("'%s' is not '<hash>-<name>' with a hash of %d characters", clip(base), HashPartLen)
	}
	for i := range HashPartLen {
		if !base32.ValidChar(base[i]) {
			return "", fmt.Errorf("'%s' has the character %q, which is not of Nix's base32, in its hash part", clip(base), base[i])
		}
	}
	if err := CheckName(base[HashPartLen+1:]); err != nil {
		return "", err
	}
	return StorePath(base), nil
}

// CheckName tells whether name may be the name of a store object or of an
// output.
func CheckName(name string) error {
	switch {
	case name == "":
		return fmt.Errorf("name must not be empty")
	case len(name) > MaxNameLen:
		return fmt.Errorf("name '%s' must be no longer than %d characters", clip(name), MaxNameLen)
	case name == "." || name == "..":
		return fmt.Errorf("name '%s' is not valid", name)
	case strings.HasPrefix(name, ".-"), strings.HasPrefix(name, "..-"):
		return fmt.Errorf("name '%s' is not valid: first dash-separated component must not be '.' or '..'", clip(name))
	}
	for i := range len(name) {
		if !validNameChar(name[i]) {
			return fmt.Errorf("name '%s' contains illegal character %q", clip(name), name[i])
		}
	}
	return nil
}

func validNameChar(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' ||
		c == '+' || c == '-' || c == '.' || c == '_' || c == '?' || c == '='
}

// clip keeps messages readable when what is complained about has no bounds.
func clip(s string) string {
	if len(s) <= 256 {
		return s
	}
	return s[:256] + "…"
}

// HashPart is the part by which references to the object are found.
func (p StorePath) HashPart() string { return string(p[:HashPartLen]) }

// Name is what follows the hash part and the dash.
func (p StorePath) Name() string { return string(p[HashPartLen+1:]) }

// IsDerivation tells whether the object is named like a derivation file.
func (p StorePath) IsDerivation() bool { return strings.HasSuffix(string(p), DrvExtension) }

// MakeStorePath computes a path from what the Nix manual calls a fingerprint:
// typ, the hash and the name, in the given store directory.
func MakeStorePath(dir StoreDir, typ string, h Hash, name string) (StorePath, error) {
	if err := CheckName(name); err != nil {
		return "", err
	}
	fingerprint := sha256.Sum256([]byte(typ + ":" + h.Base16Prefixed() + ":" + string(dir) + ":" + name))
	folded := foldHash(fingerprint[:])
	return StorePath(base32.EncodeToString(folded[:]) + "-" + name), nil
}

// foldHash shortens a digest to 160 bits by xor, as Nix does for store paths.
func foldHash(digest []byte) (folded [digestByteLen]byte) {
	for i, b := range digest {
		folded[i%digestByteLen] ^= b
	}
	return folded
}
