package narinfo

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/kilnbuild/kiln/nix"
)

// Fingerprint is the text that signatures of an object are of: its path, the hash and
// size of its archive, and its references.
func Fingerprint(dir nix.StoreDir, i *nix.PathInfo) string {
	refs := make([]string, len(i.References))
	for k, r := range i.References {
		refs[k] = dir.Join(r)
	}
	slices.Sort(refs)
	return "1;" + dir.Join(i.Path) + ";" + i.NARHash.String() + ";" + strconv.FormatInt(i.NARSize, 10) + ";" + strings.Join(refs, ",")
}

// A SecretKey signs. Its text is "<name>:<base64>"; it must not be shown to anybody.
type SecretKey struct {
	Name string
	key  ed25519.PrivateKey
}

// A PublicKey tells whether a signature is right. Its text is "<name>:<base64>".
type PublicKey struct {
	Name string
	key  ed25519.PublicKey
}

// GenerateKey makes a key.
func GenerateKey(name string) (SecretKey, error) {
	if err := checkKeyName(name); err != nil {
		return SecretKey{}, err
	}
	_, key, err := ed25519.GenerateKey(rand.Reader)
	return SecretKey{name, key}, err
}

func checkKeyName(name string) error {
	if name == "" || strings.ContainsAny(name, ": \t\r\n\x00") {
		return fmt.Errorf("'%.100s' cannot be the name of a key: it must not be empty, nor have colons or spaces", name)
	}
	return nil
}

// ParseSecretKey reads a key. Its errors do not tell what the key is.
func ParseSecretKey(text string) (SecretKey, error) {
	name, raw, err := parseKey(text, ed25519.PrivateKeySize)
	if err != nil {
		return SecretKey{}, fmt.Errorf("parse secret key: %w", err)
	}
	return SecretKey{name, raw}, nil
}

// ParsePublicKey reads a key.
func ParsePublicKey(text string) (PublicKey, error) {
	name, raw, err := parseKey(text, ed25519.PublicKeySize)
	if err != nil {
		return PublicKey{}, fmt.Errorf("parse public key: %w", err)
	}
	return PublicKey{name, raw}, nil
}

func parseKey(text string, size int) (string, []byte, error) {
	name, encoded, ok := strings.Cut(strings.TrimSpace(text), ":")
	if !ok {
		return "", nil, errors.New("it is not of the form NAME:KEY")
	}
	if err := checkKeyName(name); err != nil {
		return "", nil, err
	}
	raw, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil || len(raw) != size {
		return "", nil, fmt.Errorf("what follows the name '%s' is not %d bytes in base64", name, size)
	}
	return name, raw, nil
}

// Text is the key as it stands in files.
func (k SecretKey) Text() string { return k.Name + ":" + base64.StdEncoding.EncodeToString(k.key) }

// Public is the key that tells whether what k signed is right.
func (k SecretKey) Public() PublicKey {
	return PublicKey{k.Name, k.key.Public().(ed25519.PublicKey)}
}

// String is the key as it stands in trusted-public-keys.
func (k PublicKey) String() string { return k.Name + ":" + base64.StdEncoding.EncodeToString(k.key) }

// Sign gives the signature of an object.
func (k SecretKey) Sign(dir nix.StoreDir, i *nix.PathInfo) string {
	return k.Name + ":" + base64.StdEncoding.EncodeToString(ed25519.Sign(k.key, []byte(Fingerprint(dir, i))))
}

// Signed tells whether an object has a right signature by one of keys.
func Signed(dir nix.StoreDir, i *nix.PathInfo, keys []PublicKey) bool {
	var fingerprint []byte
	for _, s := range i.Signatures {
		name, encoded, ok := strings.Cut(s, ":")
		if !ok {
			continue
		}
		for _, k := range keys {
			if k.Name != name {
				continue
			}
			signature, err := base64.StdEncoding.DecodeString(encoded)
			if err != nil || len(signature) != ed25519.SignatureSize {
				continue
			}
			if fingerprint == nil {
				fingerprint = []byte(Fingerprint(dir, i))
			}
			if ed25519.Verify(k.key, fingerprint, signature) {
				return true
			}
		}
	}
	return false
}
