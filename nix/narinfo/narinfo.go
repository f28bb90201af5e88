package narinfo

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/kilnbuild/kiln/nix"
)

// MaxSize is the longest text that is read, in bytes: some thousand references.
const MaxSize = 4 << 20

// MaxSignatures is how many signatures of one object are read.
const MaxSignatures = 256

// Info is what a binary cache says of a store object.
type Info struct {
	nix.PathInfo // without RegistrationTime and Ultimate
	// URL is where the archive is, relative to the cache.
	URL string
	// Compression is how the archive is compressed: "none", "xz", …
	Compression string
	FileHash    nix.Hash // of the compressed archive; zero if it is not known
	FileSize    int64    // of the compressed archive, in bytes; 0 if it is not known
}

// Parse reads the text of a narinfo file. Lines that it does not know mean nothing.
func Parse(dir nix.StoreDir, text []byte) (*Info, error) {
	i, err := parse(dir, text)
	if err != nil {
		return nil, fmt.Errorf("parse narinfo: %w", err)
	}
	return i, nil
}

func parse(dir nix.StoreDir, text []byte) (*Info, error) {
	if len(text) > MaxSize {
		return nil, fmt.Errorf("%d bytes, at most %d are read", len(text), MaxSize)
	}
	p := parser{dir: dir, info: &Info{}}
	rest := string(text)
	for n := 1; rest != ""; n++ {
		line, after, ended := strings.Cut(rest, "\n")
		if !ended {
			return nil, fmt.Errorf("line %d has no end: it is cut off", n)
		}
		rest = after
		key, value, ok := strings.Cut(line, ":")
		if !ok {
			return nil, fmt.Errorf("line %d has no colon", n)
		}
		if err := p.line(key, strings.TrimPrefix(value, " ")); err != nil {
			return nil, fmt.Errorf("line %d, %.40s: %w", n, key, err)
		}
	}
	i := p.info
	switch {
	case i.Path == "":
		return nil, errors.New("the StorePath is missing")
	case i.URL == "":
		return nil, errors.New("the URL is missing")
	case i.NARHash.IsZero():
		return nil, errors.New("the NarHash is missing")
	case i.NARSize == 0:
		return nil, errors.New("the NarSize is missing")
	}
	if i.Compression == "" {
		i.Compression = "bzip2" // as it was before the line was
	}
	slices.Sort(i.References)
	i.References = slices.Compact(i.References)
	return i, nil
}

type parser struct {
	dir  nix.StoreDir
	info *Info
	refs bool // seen
}

func (p *parser) line(key, value string) (err error) {
	i := p.info
	switch key {
	case "StorePath":
		i.Path, err = p.dir.Parse(value)
	case "URL":
		i.URL = value
	case "Compression":
		i.Compression = value
	case "FileHash":
		i.FileHash, err = nix.ParseAnyHash(value, nix.SHA256)
	case "FileSize":
		i.FileSize, err = size(value)
	case "NarHash":
		i.NARHash, err = nix.ParseAnyHash(value, nix.SHA256)
	case "NarSize":
		if i.NARSize, err = size(value); err == nil && i.NARSize == 0 {
			err = errors.New("no archive is empty")
		}
	case "References":
		if p.refs {
			return errors.New("it is there twice")
		}
		p.refs = value != ""
		for _, name := range strings.Fields(value) {
			r, err := nix.ParseStorePath(name)
			if err != nil {
				return err
			}
			i.References = append(i.References, r)
		}
	case "Deriver":
		if value != "" && value != "unknown-deriver" {
			i.Deriver, err = nix.ParseStorePath(value)
		}
	case "Sig":
		if len(i.Signatures) == MaxSignatures {
			return fmt.Errorf("more than %d signatures", MaxSignatures)
		}
		i.Signatures = append(i.Signatures, value)
	case "CA":
		if !i.CA.IsZero() {
			return errors.New("it is there twice")
		}
		i.CA, err = nix.ParseContentAddress(value)
	}
	return err
}

func size(text string) (int64, error) {
	n, err := strconv.ParseUint(text, 10, 63)
	if err != nil {
		return 0, fmt.Errorf("'%.40s' is not a size", text)
	}
	return int64(n), nil
}

// Append appends the text of a narinfo file, as Nix writes it.
func (i *Info) Append(dst []byte, dir nix.StoreDir) []byte {
	line := func(key, value string) {
		dst = append(dst, key...)
		dst = append(dst, ": "...)
		dst = append(dst, value...)
		dst = append(dst, '\n')
	}
	line("StorePath", dir.Join(i.Path))
	line("URL", i.URL)
	line("Compression", i.Compression)
	if !i.FileHash.IsZero() {
		line("FileHash", i.FileHash.String())
	}
	if i.FileSize != 0 {
		line("FileSize", strconv.FormatInt(i.FileSize, 10))
	}
	line("NarHash", i.NARHash.String())
	line("NarSize", strconv.FormatInt(i.NARSize, 10))
	names := make([]string, len(i.References))
	for k, r := range i.References {
		names[k] = string(r)
	}
	line("References", strings.Join(names, " "))
	if i.Deriver != "" {
		line("Deriver", string(i.Deriver))
	}
	for _, s := range i.Signatures {
		line("Sig", s)
	}
	if !i.CA.IsZero() {
		line("CA", i.CA.String())
	}
	return dst
}
