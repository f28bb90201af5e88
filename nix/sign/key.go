package sign

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/kilnbuild/kiln/nix"
)

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

// Sign makes a signature of a fingerprint, "<name>:<base64>".
func (k SecretKey) Sign(fingerprint string) string {
	return k.Name + ":" + base64.StdEncoding.EncodeToString(ed25519.Sign(k.key, []byte(fingerprint)))
}

// SignObject makes a signature of an object, of which the archive's hash and size have
// to be known.
func (k SecretKey) SignObject(dir nix.StoreDir, info *nix.PathInfo) (string, error) {
	fingerprint, err := Object(dir, info)
	if err != nil {
		return "", err
	}
	return k.Sign(fingerprint), nil
}

// Keys are the public keys that somebody trusts, by name. A nil one trusts nobody.
type Keys map[string]ed25519.PublicKey

// NewKeys gives the set of keys. Of several with one name the first counts, as with
// Nix.
func NewKeys(all ...PublicKey) Keys {
	keys := make(Keys, len(all))
	for _, k := range all {
		if _, ok := keys[k.Name]; !ok {
			keys[k.Name] = k.key
		}
	}
	return keys
}

// ParseKeys is NewKeys of texts.
func ParseKeys(texts []string) (Keys, error) {
	all := make([]PublicKey, len(texts))
	for i, text := range texts {
		var err error
		if all[i], err = ParsePublicKey(text); err != nil {
			return nil, fmt.Errorf("'%s': %w", text, err)
		}
	}
	return NewKeys(all...), nil
}

// Trusted tells whether one of the signatures of a fingerprint is by one of the keys.
func (k Keys) Trusted(fingerprint string, signatures []string) bool {
	return slices.ContainsFunc(signatures, func(s string) bool {
		name, encoded, _ := strings.Cut(s, ":")
		key, known := k[name]
		if !known {
			return false
		}
		data, err := base64.StdEncoding.DecodeString(encoded)
		return err == nil && ed25519.Verify(key, []byte(fingerprint), data)
	})
}

// TrustedObject tells whether one of the signatures of an object is by one of the keys.
func (k Keys) TrustedObject(dir nix.StoreDir, info *nix.PathInfo) bool {
	fingerprint, err := Object(dir, info)
	return err == nil && k.Trusted(fingerprint, info.Signatures)
}
