package builtin

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/kilnbuild/kiln/nix/nar"
	"github.com/therootcompany/xz"
)

// fetchurl downloads a file, or an archive that it unpacks. (Nix:
// builtin:fetchurl.) That what came is what was asked for, its hash says, which is
// checked when the builder has ended.
func (t *task) fetchurl() error {
	out, err := t.out()
	if err != nil {
		return err
	}
	if t.Fixed == nil && !t.Impure {
		return errors.New("'builtin:fetchurl' must be a fixed-output or impure derivation")
	}
	url, err := t.attribute("url")
	if err != nil {
		return err
	}
	f, err := newFetcher(t)
	if err != nil {
		return err
	}
	defer f.close()
	if t.Fixed != nil && t.Fixed.Flat {
		for _, mirror := range t.Fetch.HashedMirrors {
			mirrored := strings.TrimSuffix(mirror, "/") + "/" + t.Fixed.Algorithm + "/" + t.Fixed.Base16
			if err = t.fetch(f, mirrored, true, url, out); err == nil || t.ctx.Err() != nil {
				return err
			}
			if err := os.RemoveAll(out); err != nil {
				return err
			}
		}
	}
	return t.fetch(f, url, false, url, out)
}

// fetch makes out of what is at an address. The one that the derivation has says
// whether that is compressed; ours are addresses that the operator has named.
func (t *task) fetch(f *fetcher, address string, ours bool, named, out string) (err error) {
	body, err := f.get(t.ctx, address, ours)
	if err != nil {
		return err
	}
	defer body.Close()
	if t.Env["unpack"] == "1" {
		err = unpackArchive(out, body, strings.HasSuffix(named, ".xz"))
	} else {
		err = writeFile(out, body)
	}
	if err == nil && t.Env["executable"] == "1" {
		err = os.Chmod(out, 0o755)
	}
	return err
}

func writeFile(name string, content io.Reader) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, content)
	return errors.Join(err, f.Close())
}

// unpackArchive makes the tree of a Nix archive.
func unpackArchive(out string, body io.Reader, compressed bool) error {
	if compressed {
		decoder, err := xz.NewReader(body, xz.DefaultDictMax)
		if err != nil {
			return fmt.Errorf("what came is no xz file: %w", err)
		}
		body = decoder
	}
	if _, err := nar.Restore(out, body, nar.RestoreOptions{}); err != nil {
		return fmt.Errorf("what came is not a Nix archive: %w", err)
	}
	return nil
}
