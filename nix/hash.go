package nix

import (
	"crypto/md5"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"hash"
	"strings"

	"github.com/kilnbuild/kiln/nix/base32"
	"github.com/zeebo/blake3"
)

// HashAlgorithm is one of the hash functions that Nix knows. The zero value is
// none.
type HashAlgorithm uint8

// The algorithms of Nix. BLAKE3 is behind the experimental feature
// "blake3-hashes" there.
const (
	MD5 HashAlgorithm = iota + 1
	SHA1
	SHA256
	SHA512
	BLAKE3
)

var algorithms = [...]struct {
	name string
	size int
	new  func() hash.Hash
}{
	MD5:    {"md5", md5.Size, md5.New},
	SHA1:   {"sha1", sha1.Size, sha1.New},
	SHA256: {"sha256", sha256.Size, sha256.New},
	SHA512: {"sha512", sha512.Size, sha512.New},
	BLAKE3: {"blake3", 32, func() hash.Hash { return blake3.New() }},
}

const maxHashSize = sha512.Size

// ParseHashAlgorithm reads the name of an algorithm.
func ParseHashAlgorithm(name string) (HashAlgorithm, error) {
	for a := MD5; int(a) < len(algorithms); a++ {
		if algorithms[a].name == name {
			return a, nil
		}
	}
	return 0, fmt.Errorf("unknown hash algorithm '%s', expect 'blake3', 'md5', 'sha1', 'sha256', or 'sha512'", clip(name))
}

func (a HashAlgorithm) String() string {
	if int(a) >= len(algorithms) || a == 0 {
		return fmt.Sprintf("unknown hash algorithm %d", uint8(a))
	}
	return algorithms[a].name
}

// Size is the length of the digest in bytes.
func (a HashAlgorithm) Size() int { return algorithms[a].size }

// New gives a running hash of the algorithm. It panics for the zero value.
func (a HashAlgorithm) New() hash.Hash { return algorithms[a].new() }

// Hash is a digest with its algorithm. It is comparable; the zero value is
// "none".
type Hash struct {
	algo HashAlgorithm
	sum  [maxHashSize]byte
}

// NewHash makes a Hash of a finished digest. It panics when the length is not
// the algorithm's: that is a mistake of the program, not of its input.
func NewHash(a HashAlgorithm, digest []byte) Hash {
	if len(digest) != a.Size() {
		panic(fmt.Sprintf("nix: %d bytes are no %s digest", len(digest), a))
	}
	h := Hash{algo: a}
	copy(h.sum[:], digest)
	return h
}

// SumHash takes what was written to running, a hash made by a.New, as a Hash.
func SumHash(a HashAlgorithm, running hash.Hash) Hash {
	var buf [maxHashSize]byte
	return NewHash(a, running.Sum(buf[:0]))
}

// HashBytes hashes data.
func HashBytes(a HashAlgorithm, data []byte) Hash {
	if a == SHA256 {
		sum := sha256.Sum256(data)
		return NewHash(a, sum[:])
	}
	running := a.New()
	running.Write(data)
	return SumHash(a, running)
}

// IsZero tells whether h is "none".
func (h Hash) IsZero() bool { return h.algo == 0 }

// Algorithm is the function that made the digest.
func (h Hash) Algorithm() HashAlgorithm { return h.algo }

// Bytes is a copy of the digest.
func (h Hash) Bytes() []byte { return append([]byte(nil), h.sum[:h.algo.Size()]...) }

// Base16 is the digest in lower-case hexadecimal digits, without the algorithm.
func (h Hash) Base16() string { return hex.EncodeToString(h.sum[:h.algo.Size()]) }

// Base16Prefixed is "<algorithm>:<hexadecimal digits>", the form of databases
// and fingerprints.
func (h Hash) Base16Prefixed() string { return h.algo.String() + ":" + h.Base16() }

// Nix32 is the digest in Nix's base32, without the algorithm.
func (h Hash) Nix32() string { return base32.EncodeToString(h.sum[:h.algo.Size()]) }

// String is "<algorithm>:<Nix's base32>", the form that Nix prints most.
func (h Hash) String() string {
	if h.IsZero() {
		return ""
	}
	return h.algo.String() + ":" + h.Nix32()
}

// SRI is "<algorithm>-<base64>", the form of subresource integrity, which
// messages to people use.
func (h Hash) SRI() string {
	return h.algo.String() + "-" + base64.StdEncoding.EncodeToString(h.sum[:h.algo.Size()])
}

// ParseHash reads a hash that names its algorithm: "<algorithm>:<digest>" with
// the digest in base16, Nix's base32 or base64, or SRI.
func ParseHash(s string) (Hash, error) {
	if name, digest, ok := strings.Cut(s, ":"); ok {
		a, err := ParseHashAlgorithm(name)
		if err != nil {
			return Hash{}, fmt.Errorf("parse hash '%s': %w", clip(s), err)
		}
		return ParseDigest(a, digest)
	}
	if name, digest, ok := strings.Cut(s, "-"); ok {
		a, err := ParseHashAlgorithm(name)
		if err != nil {
			return Hash{}, fmt.Errorf("parse hash '%s': %w", clip(s), err)
		}
		sum, err := base64.StdEncoding.Strict().DecodeString(digest)
		if err != nil || len(sum) != a.Size() {
			return Hash{}, fmt.Errorf("invalid SRI hash '%s'", clip(s))
		}
		return NewHash(a, sum), nil
	}
	return Hash{}, fmt.Errorf("hash '%s' does not include a type", clip(s))
}

// ParseAnyHash reads a hash that may or may not name its algorithm; if it does,
// it must be a, unless a is zero.
func ParseAnyHash(s string, a HashAlgorithm) (Hash, error) {
	if strings.ContainsAny(s, ":-") {
		h, err := ParseHash(s)
		if err != nil {
			return Hash{}, err
		}
		if a != 0 && h.algo != a {
			return Hash{}, fmt.Errorf("hash '%s' should have type '%s' but got '%s'", clip(s), a, h.algo)
		}
		return h, nil
	}
	if a == 0 {
		return Hash{}, fmt.Errorf("hash '%s' does not include a type, nor is the type otherwise known from context", clip(s))
	}
	return ParseDigest(a, s)
}

// ParseDigest reads a digest of a known algorithm. The encoding follows from
// the length: base16, Nix's base32 or base64.
func ParseDigest(a HashAlgorithm, s string) (Hash, error) {
	var sum []byte
	var err error
	switch len(s) {
	case hex.EncodedLen(a.Size()):
		sum, err = hex.DecodeString(s)
	case base32.EncodedLen(a.Size()):
		sum, err = base32.DecodeString(s)
	case base64.StdEncoding.EncodedLen(a.Size()):
		sum, err = base64.StdEncoding.Strict().DecodeString(s)
	default:
		return Hash{}, fmt.Errorf("hash '%s' has wrong length for hash algorithm '%s'", clip(s), a)
	}
	if err != nil {
		return Hash{}, fmt.Errorf("invalid %s hash '%s': %w", a, clip(s), err)
	}
	if len(sum) != a.Size() {
		return Hash{}, fmt.Errorf("hash '%s' has wrong length for hash algorithm '%s'", clip(s), a)
	}
	return NewHash(a, sum), nil
}
