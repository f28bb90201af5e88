// Package sign says what is signed of store objects and realisations, and checks
// signatures by keys that somebody trusts. (Nix manual, "Signatures"; Nix:
// ValidPathInfo::fingerprint, Realisation::fingerprint.)
package sign

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/kilnbuild/kiln/nix"
)

// ErrUntrusted says that no signature was made with a key that is trusted.
var ErrUntrusted = errors.New("it lacks a signature by a trusted key")

// Keys are public keys by name. A nil one trusts nobody.
type Keys map[string]ed25519.PublicKey

// ParseKeys reads public keys, each as "name:base64".
func ParseKeys(texts []string) (Keys, error) {
	keys := make(Keys, len(texts))
	for _, text := range texts {
		name, data, err := split(text)
		if err == nil && len(data) != ed25519.PublicKeySize {
			err = fmt.Errorf("it has %d bytes, not %d", len(data), ed25519.PublicKeySize)
		}
		if err != nil {
			return nil, fmt.Errorf("read public key '%s': %w", text, err)
		}
		keys[name] = data
	}
	return keys, nil
}

// PublicKey gives the public half of a secret key as "name:base64".
func PublicKey(secret string) (string, error) {
	name, data, err := split(strings.TrimSpace(secret))
	if err == nil && len(data) != ed25519.PrivateKeySize {
		err = fmt.Errorf("it has %d bytes, not %d", len(data), ed25519.PrivateKeySize)
	}
	if err != nil {
		return "", fmt.Errorf("read secret key '%s': %w", name, err)
	}
	return name + ":" + base64.StdEncoding.EncodeToString(data[ed25519.PrivateKeySize-ed25519.PublicKeySize:]), nil
}

func split(text string) (name string, data []byte, err error) {
	name, encoded, ok := strings.Cut(text, ":")
	if !ok || name == "" {
		return "", nil, errors.New("it has to be of the form NAME:BASE64")
	}
	data, err = base64.StdEncoding.DecodeString(encoded)
	return name, data, err
}

// Sign makes a signature of a fingerprint with a secret key, "name:base64".
func Sign(secret, fingerprint string) (string, error) {
	name, data, err := split(strings.TrimSpace(secret))
	if err == nil && len(data) != ed25519.PrivateKeySize {
		err = fmt.Errorf("it has %d bytes, not %d", len(data), ed25519.PrivateKeySize)
	}
	if err != nil {
		return "", fmt.Errorf("read secret key '%s': %w", name, err)
	}
	return name + ":" + base64.StdEncoding.EncodeToString(ed25519.Sign(data, []byte(fingerprint))), nil
}

// Trusted tells whether one of the signatures of a fingerprint is by one of the keys.
func (k Keys) Trusted(fingerprint string, signatures []string) bool {
	return slices.ContainsFunc(signatures, func(s string) bool {
		name, data, err := split(s)
		key, known := k[name]
		return err == nil && known && ed25519.Verify(key, []byte(fingerprint), data)
	})
}

// Object is what is signed of a store object. It must have an archive hash and size.
func Object(dir nix.StoreDir, info *nix.PathInfo) (string, error) {
	if info.NARSize == 0 || info.NARHash.IsZero() {
		return "", fmt.Errorf("cannot calculate fingerprint of path '%s' because its size/hash is not known", dir.Join(info.Path))
	}
	references := make([]string, 0, len(info.References))
	for _, r := range slices.Compact(slices.Sorted(slices.Values(info.References))) {
		references = append(references, dir.Join(r))
	}
	return fmt.Sprintf("1;%s;sha256:%s;%d;%s", dir.Join(info.Path), info.NARHash.Nix32(), info.NARSize, strings.Join(references, ",")), nil
}

// Realisation is what is signed of a realisation by Nix since 2.35.
func Realisation(r *nix.Realisation) string {
	return printJSON(map[string]any{
		"key":   map[string]any{"drvPath": string(r.ID.Drv), "outputName": string(r.ID.Output)},
		"value": map[string]any{"outPath": string(r.OutPath)},
	})
}

// LegacyRealisation is what is signed of one by Nix before 2.35, which names an output
// "sha256:<base16>!<output>".
func LegacyRealisation(id string, p nix.StorePath) string {
	return printJSON(map[string]any{"dependentRealisations": map[string]any{}, "id": id, "outPath": string(p)})
}

// printJSON prints without spaces, with the names in order.
func printJSON(v any) string {
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		panic(err) // of texts and maps it has none
	}
	return strings.TrimSuffix(b.String(), "\n")
}
