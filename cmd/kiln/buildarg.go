package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/aterm"
	"github.com/kilnbuild/kiln/nix/drvjson"
	"github.com/kilnbuild/kiln/nix/jsonvalue"
)

// maxDrvFile bounds how much of a derivation's file is read, in bytes.
const maxDrvFile = 64 << 20

// A buildStore is what builds are asked for in.
type buildStore interface {
	place
	AddDerivation(ctx context.Context, drv *nix.Derivation) (nix.StorePath, error)
	AddRoot(ctx context.Context, link string, p nix.StorePath) error
}

// buildArg reads a command line's word for something to build. Derivations that
// are not in the store yet are added.
func buildArg(ctx context.Context, st buildStore, arg string) (nix.DerivedPath, error) {
	name, outputs, chosen := strings.Cut(arg, "^")
	wanted := nix.AllOutputs
	if chosen {
		var err error
		if wanted, err = nix.ParseOutputSpec(outputs); err != nil {
			return nix.DerivedPath{}, fmt.Errorf("'%s': %w", arg, err)
		}
	}
	p, err := storePathArg(st, name)
	switch {
	case err != nil && (strings.HasSuffix(name, nix.DrvExtension) || strings.HasSuffix(name, ".json") || name == "-"):
		if p, err = addDerivationFile(ctx, st, name); err != nil {
			return nix.DerivedPath{}, err
		}
	case err != nil:
		return nix.DerivedPath{}, err
	case !p.IsDerivation() && chosen:
		return nix.DerivedPath{}, fmt.Errorf("'%s' is not a derivation, so it has no outputs to choose from", name)
	case !p.IsDerivation():
		return nix.Opaque(p), nil
	}
	return nix.Built(p, wanted), nil
}

// addDerivationFile reads a .drv or JSON file and adds the derivation to the
// store.
func addDerivationFile(ctx context.Context, st buildStore, name string) (nix.StorePath, error) {
	text, err := readLimited(name, maxDrvFile)
	if err != nil {
		return "", fmt.Errorf("read derivation: %w", err)
	}
	var drv *nix.Derivation
	var claimed nix.StorePath
	if strings.HasSuffix(name, nix.DrvExtension) {
		base := filepath.Base(name)
		if p, err := nix.ParseStorePath(base); err == nil {
			claimed, base = p, p.Name()
		}
		drv, err = aterm.Parse(st.Dir(), strings.TrimSuffix(base, nix.DrvExtension), text, aterm.Limits{})
	} else {
		drv, err = parseJSONDerivation(st.Dir(), text)
	}
	if err != nil {
		return "", fmt.Errorf("read derivation from '%s': %w", name, err)
	}
	if claimed != "" {
		p, _, _, err := aterm.DerivationPath(st.Dir(), drv)
		if err != nil {
			return "", fmt.Errorf("read derivation from '%s': %w", name, err)
		}
		if p != claimed {
			return "", fmt.Errorf("derivation file '%s' is named after the store path '%s', but its content has the path '%s': it was changed, or belongs to another store directory",
				name, claimed, p)
		}
	}
	p, err := st.AddDerivation(ctx, drv)
	if err != nil {
		return "", fmt.Errorf("add derivation from '%s': %w", name, err)
	}
	return p, nil
}

// parseJSONDerivation reads a derivation as JSON: alone, or as the only one in
// what `derivation show` prints.
func parseJSONDerivation(dir nix.StoreDir, text []byte) (*nix.Derivation, error) {
	drv, err := drvjson.Unmarshal(dir, text, jsonvalue.Limits{})
	if err == nil {
		return drv, nil
	}
	shown, showErr := drvjson.UnmarshalShow(dir, text, jsonvalue.Limits{})
	if showErr != nil {
		return nil, err
	}
	if len(shown) != 1 {
		return nil, fmt.Errorf("there are %d derivations in it: give one a file", len(shown))
	}
	for _, d := range shown {
		drv = d
	}
	return drv, nil
}

// readLimited reads a file, or standard input for "-".
func readLimited(name string, limit int64) ([]byte, error) {
	in := os.Stdin
	if name != "-" {
		var err error
		if in, err = os.Open(name); err != nil {
			return nil, err
		}
		defer in.Close()
	}
	text, err := io.ReadAll(io.LimitReader(in, limit+1))
	if err == nil && int64(len(text)) > limit {
		err = fmt.Errorf("it is larger than the limit of %d bytes", limit)
	}
	if err != nil {
		return nil, fmt.Errorf("'%s': %w", name, err)
	}
	return text, nil
}
