package main

import (
	"errors"
	"fmt"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/sign"
	"github.com/kilnbuild/kiln/store/binarycache"
)

// trustedKeys are those whose signatures count: the configured ones, and those that
// belong to this machine's own secret keys, as far as this user may read them.
func (c *configuration) trustedKeys() (sign.Keys, error) {
	var keys []sign.PublicKey
	for _, text := range c.settings.TrustedPublicKeys {
		k, err := sign.ParsePublicKey(text)
		if err != nil {
			return nil, fmt.Errorf("setting 'trusted-public-keys': %w", err)
		}
		keys = append(keys, k)
	}
	for _, file := range c.settings.SecretKeyFiles {
		if k, err := binarycache.ReadSecretKey(file); err == nil {
			keys = append(keys, k.Public())
		}
	}
	return sign.NewKeys(keys...), nil
}

// verifySignatures tells whether an object of that store directory is signed by a key
// that is trusted.
func (c *configuration) verifySignatures(dir nix.StoreDir) func(*nix.PathInfo) error {
	return func(info *nix.PathInfo) error {
		keys, err := c.trustedKeys()
		if err == nil && !keys.TrustedObject(dir, info) {
			err = errors.New("none of its signatures is by one of 'trusted-public-keys'")
		}
		return err
	}
}
