package worker

import (
	"fmt"
	"path"
	"slices"
	"time"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/wire"
)

// maxPath is the longest store path that is read, in bytes: no store directory is
// longer than what a path on Linux can be.
const maxPath = 4096

// StorePath writes the full path of a store object.
func (e *Encoder) StorePath(p nix.StorePath) { e.Text(e.Dir.Join(p)) }

// StorePath reads the full path of a store object. As in Nix, it need not be in
// canonical form.
func (d *Decoder) StorePath() nix.StorePath {
	p := d.OptionalPath()
	if p == "" {
		d.Fail(fmt.Errorf("path '' is not in the Nix store"))
	}
	return p
}

// OptionalPath writes the full path of a store object, or "" for none.
func (e *Encoder) OptionalPath(p nix.StorePath) {
	if p == "" {
		e.Text("")
		return
	}
	e.StorePath(p)
}

// OptionalPath reads the full path of a store object, or "".
func (d *Decoder) OptionalPath() nix.StorePath {
	full := string(d.BytesUpTo(maxPath))
	if full == "" || d.Err() != nil {
		return ""
	}
	p, err := d.Dir.Parse(canonical(full))
	if err != nil {
		d.Fail(err)
	}
	return p
}

// canonical is a path without doubled slashes and the like, if it is absolute.
func canonical(full string) string {
	if path.IsAbs(full) {
		return path.Clean(full)
	}
	return full
}

// BaseName writes a store path without the store directory.
func (e *Encoder) BaseName(p nix.StorePath) { e.Text(string(p)) }

// BaseName reads a store path without the store directory.
func (d *Decoder) BaseName() nix.StorePath {
	p, err := nix.ParseStorePath(string(d.BytesUpTo(maxPath)))
	if err != nil {
		d.Fail(err)
	}
	return p
}

// PathSet writes a set of store paths: sorted, each of them once.
func (e *Encoder) PathSet(paths []nix.StorePath) {
	wire.WriteList(e.Writer, slices.Compact(slices.Sorted(slices.Values(paths))), e.StorePath)
}

// PathSet reads a set of store paths, and gives it sorted and without duplicates.
func (d *Decoder) PathSet() []nix.StorePath {
	paths := wire.List(d.Reader, d.StorePath)
	slices.Sort(paths)
	return slices.Compact(paths)
}

// ContentAddress writes a content address, "" for none.
func (e *Encoder) ContentAddress(ca nix.ContentAddress) { e.Text(ca.String()) }

// ContentAddress reads a content address or "".
func (d *Decoder) ContentAddress() nix.ContentAddress {
	ca, err := nix.ParseContentAddress(d.Text())
	if err != nil {
		d.Fail(err)
	}
	return ca
}

// archiveHash writes the hash of an archive.
func (e *Encoder) archiveHash(h nix.Hash) { e.Text(h.Base16()) }

// archiveHash reads the hash of an archive, in any form.
func (d *Decoder) archiveHash() nix.Hash {
	h, err := nix.ParseAnyHash(d.Text(), nix.SHA256)
	if err != nil {
		d.Fail(err)
	}
	return h
}

// Time writes a time in seconds, 0 for none.
func (e *Encoder) Time(t time.Time) {
	if t.IsZero() {
		e.Uint64(0)
		return
	}
	e.Int64(t.Unix())
}

// Time reads a time in seconds. 0 is the zero time.
func (d *Decoder) Time() time.Time {
	if s := d.Int64(); s != 0 {
		return time.Unix(s, 0)
	}
	return time.Time{}
}

// outputName reads the name of an output of a derivation.
func (d *Decoder) outputName() nix.OutputName {
	name := d.Text()
	if err := nix.CheckName(name); err != nil {
		d.Fail(err)
	}
	return nix.OutputName(name)
}

func (e *Encoder) outputName(name nix.OutputName) { e.Text(string(name)) }

// OutputMap writes the outputs of a derivation, with "" for those whose path is not
// known.
func (e *Encoder) OutputMap(m map[nix.OutputName]nix.StorePath) {
	wire.WriteMap(e.Writer, m, e.outputName, e.OptionalPath)
}

// OutputMap reads what the Encoder's OutputMap writes.
func (d *Decoder) OutputMap() map[nix.OutputName]nix.StorePath {
	return wire.Map(d.Reader, d.outputName, d.OptionalPath)
}

// UnkeyedPathInfo writes what a store knows of an object, without its path.
func (e *Encoder) UnkeyedPathInfo(i *nix.PathInfo) {
	e.OptionalPath(i.Deriver)
	e.archiveHash(i.NARHash)
	e.PathSet(i.References)
	e.Time(i.RegistrationTime)
	e.Int64(i.NARSize)
	e.Bool(i.Ultimate)
	e.TextSet(i.Signatures)
	e.ContentAddress(i.CA)
}

// UnkeyedPathInfo reads what a store knows of the object at p.
func (d *Decoder) UnkeyedPathInfo(p nix.StorePath) *nix.PathInfo {
	return &nix.PathInfo{
		Path:             p,
		Deriver:          d.OptionalPath(),
		NARHash:          d.archiveHash(),
		References:       d.PathSet(),
		RegistrationTime: d.Time(),
		NARSize:          d.Size(),
		Ultimate:         d.Bool(),
		Signatures:       d.Texts(),
		CA:               d.ContentAddress(),
	}
}

// PathInfo writes what a store knows of an object.
func (e *Encoder) PathInfo(i *nix.PathInfo) {
	e.StorePath(i.Path)
	e.UnkeyedPathInfo(i)
}

// PathInfo reads what a store knows of an object.
func (d *Decoder) PathInfo() *nix.PathInfo { return d.UnkeyedPathInfo(d.StorePath()) }

// Substitutable is what is known of an object that could be fetched.
type Substitutable struct {
	Path         nix.StorePath
	Deriver      nix.StorePath // "" when it is not known
	References   []nix.StorePath
	DownloadSize int64 // bytes, 0 when it is not known
	NARSize      int64 // bytes, 0 when it is not known
}

func (e *Encoder) unkeyedSubstitutable(s *Substitutable) {
	e.OptionalPath(s.Deriver)
	e.PathSet(s.References)
	e.Int64(s.DownloadSize)
	e.Int64(s.NARSize)
}

func (d *Decoder) unkeyedSubstitutable(p nix.StorePath) Substitutable {
	return Substitutable{Path: p, Deriver: d.OptionalPath(), References: d.PathSet(), DownloadSize: d.Size(), NARSize: d.Size()}
}

// OptionalSubstitutable writes the reply to QuerySubstitutablePathInfo; nil is none.
func (e *Encoder) OptionalSubstitutable(s *Substitutable) {
	e.Bool(s != nil)
	if s != nil {
		e.unkeyedSubstitutable(s)
	}
}

// OptionalSubstitutable reads what is known of p, nil for nothing.
func (d *Decoder) OptionalSubstitutable(p nix.StorePath) *Substitutable {
	if !d.Bool() {
		return nil
	}
	s := d.unkeyedSubstitutable(p)
	return &s
}

// Substitutables writes the reply to QuerySubstitutablePathInfos.
func (e *Encoder) Substitutables(all []Substitutable) {
	wire.WriteList(e.Writer, all, func(s Substitutable) {
		e.StorePath(s.Path)
		e.unkeyedSubstitutable(&s)
	})
}

// Substitutables reads the reply to QuerySubstitutablePathInfos.
func (d *Decoder) Substitutables() []Substitutable {
	return wire.List(d.Reader, func() Substitutable { return d.unkeyedSubstitutable(d.StorePath()) })
}

// Missing is what would have to be done for derived paths.
type Missing struct {
	WillBuild      []nix.StorePath // derivations
	WillSubstitute []nix.StorePath
	Unknown        []nix.StorePath // nobody knows how to make these
	DownloadSize   int64           // bytes
	NARSize        int64           // bytes
}

// Missing writes the reply to QueryMissing.
func (e *Encoder) Missing(m *Missing) {
	e.PathSet(m.WillBuild)
	e.PathSet(m.WillSubstitute)
	e.PathSet(m.Unknown)
	e.Int64(m.DownloadSize)
	e.Int64(m.NARSize)
}

// Missing reads the reply to QueryMissing.
func (d *Decoder) Missing() *Missing {
	return &Missing{
		WillBuild: d.PathSet(), WillSubstitute: d.PathSet(), Unknown: d.PathSet(),
		DownloadSize: d.Size(), NARSize: d.Size(),
	}
}

// Root is something that keeps a store object from the garbage collector.
type Root struct {
	Link string // a file, or another name for what holds it
	Path nix.StorePath
}

// Roots writes the reply to FindRoots.
func (e *Encoder) Roots(roots []Root) {
	wire.WriteList(e.Writer, roots, func(r Root) {
		e.Text(r.Link)
		e.StorePath(r.Path)
	})
}

// Roots reads the reply to FindRoots.
func (d *Decoder) Roots() []Root {
	return wire.List(d.Reader, func() Root { return Root{Link: d.Text(), Path: d.StorePath()} })
}
