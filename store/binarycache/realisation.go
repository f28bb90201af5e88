package binarycache

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/sign"
	"github.com/kilnbuild/kiln/store"
	"github.com/kilnbuild/kiln/store/lookups"
)

// maxRealisation is the longest text of a realisation that is read, in bytes.
const maxRealisation = 1 << 20

// A SignedRealisation is what a cache says an output of a derivation is.
type SignedRealisation struct {
	OutPath nix.StorePath
	// Signatures are of Fingerprint.
	Signatures  []string
	Fingerprint string
}

// Realisation gives what the cache says of an output, which legacy is the name of as
// before Nix 2.35: "sha256:<base16>!<output>". An error that wraps store.ErrNotFound
// says that it has nothing to say.
func (c *Cache) Realisation(ctx context.Context, id nix.DrvOutput, legacy string) (*SignedRealisation, error) {
	text, err := c.askRealisation(ctx, legacy)
	if err == nil {
		var r *SignedRealisation
		if r, err = c.parseLegacy(legacy, text); err == nil {
			return r, nil
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		// As Nix since 2.35 has it.
		if text, err = c.read(ctx, traceName(id), maxRealisation); err == nil {
			var r *SignedRealisation
			if r, err = c.parseTrace(id, text); err == nil {
				return r, nil
			}
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		err = store.ErrNotFound
	}
	return nil, fmt.Errorf("read what '%s' says of '%s^%s': %w", c.name, c.opts.Dir.Join(id.Drv), id.Output, err)
}

// askRealisation reads the text of a realisation, unless the answer is known from
// before.
func (c *Cache) askRealisation(ctx context.Context, legacy string) ([]byte, error) {
	if c.lookups != nil {
		switch answer, text := c.lookups.Realisation(c.url, legacy); answer {
		case lookups.Present:
			return text, nil
		case lookups.Absent:
			return nil, fs.ErrNotExist
		}
	}
	text, err := c.read(ctx, legacyName(legacy), maxRealisation)
	if errors.Is(err, fs.ErrNotExist) && c.lookups != nil {
		c.lookups.SetRealisation(c.url, legacy, nil)
	}
	if err == nil && c.lookups != nil {
		if _, perr := c.parseLegacy(legacy, text); perr == nil {
			c.lookups.SetRealisation(c.url, legacy, text)
		}
	}
	return text, err
}

// legacyName and traceName are the files that realisations have before Nix 2.35 and since.
func legacyName(legacy string) string { return "realisations/" + legacy + ".doi" }
func traceName(id nix.DrvOutput) string {
	return "build-trace-v2/" + string(id.Drv) + "/" + string(id.Output) + ".doi"
}

// AddRealisation implements store.RealisationSink: for Nix before 2.35 and since. It is
// signed with the cache's keys.
func (c *Cache) AddRealisation(ctx context.Context, r *nix.Realisation, legacy string) error {
	err := c.addRealisation(ctx, r, legacy)
	if err != nil {
		return fmt.Errorf("add realisation of '%s^%s' to '%s': %w", c.opts.Dir.Join(r.ID.Drv), r.ID.Output, c.name, err)
	}
	return nil
}

func (c *Cache) addRealisation(ctx context.Context, r *nix.Realisation, legacy string) error {
	if _, err := c.PathInfo(ctx, r.OutPath); err != nil {
		return err
	}
	for _, f := range []struct {
		name, fingerprint string
		fields            map[string]any
	}{
		{legacyName(legacy), sign.LegacyRealisation(legacy, r.OutPath), map[string]any{"dependentRealisations": map[string]any{}, "id": legacy}},
		{traceName(r.ID), sign.Realisation(r), map[string]any{}},
	} {
		signatures := append([]string{}, r.Signatures...)
		for _, k := range c.opts.Keys {
			signatures = append(signatures, k.Sign(f.fingerprint))
		}
		slices.Sort(signatures)
		f.fields["outPath"], f.fields["signatures"] = r.OutPath, slices.Compact(signatures)
		text, err := json.Marshal(f.fields)
		if err == nil {
			err = c.write(ctx, f.name, "application/json", text)
		}
		if err != nil {
			return err
		}
		if c.lookups != nil && f.name == legacyName(legacy) {
			c.lookups.SetRealisation(c.url, legacy, text)
		}
	}
	return nil
}

// realisationJSON is a realisation in a cache.
type realisationJSON struct {
	// Dependent are the realisations that this one was built with, as Nix 2.8 has them.
	Dependent  map[string]string `json:"dependentRealisations"`
	ID         string            `json:"id"`
	OutPath    string            `json:"outPath"`
	Signatures []string          `json:"signatures"`
}

// parseLegacy reads a realisation of Nix before 2.35.
func (c *Cache) parseLegacy(legacy string, text []byte) (*SignedRealisation, error) {
	j, p, err := c.parseRealisation(text)
	if err != nil {
		return nil, err
	}
	if j.ID != legacy {
		return nil, fmt.Errorf("it is about '%.100s'", j.ID)
	}
	return &SignedRealisation{p, j.Signatures, sign.LegacyRealisationWith(j.ID, p, j.Dependent)}, nil
}

// parseTrace reads a realisation of Nix since 2.35.
func (c *Cache) parseTrace(id nix.DrvOutput, text []byte) (*SignedRealisation, error) {
	j, p, err := c.parseRealisation(text)
	if err != nil {
		return nil, err
	}
	return &SignedRealisation{p, j.Signatures, sign.Realisation(&nix.Realisation{ID: id, OutPath: p})}, nil
}

func (c *Cache) parseRealisation(text []byte) (*realisationJSON, nix.StorePath, error) {
	j := &realisationJSON{}
	if err := json.Unmarshal(text, j); err != nil {
		return nil, "", err
	}
	p, err := nix.ParseStorePath(strings.TrimPrefix(j.OutPath, string(c.opts.Dir)+"/"))
	return j, p, err
}
