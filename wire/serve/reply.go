package serve

import (
	"errors"
	"fmt"
	"math"

	"github.com/kilnbuild/kiln/nix"
)

// Info writes what a store knows of a valid object. The protocol has no time of
// registration, and does not say who built it.
func (e *Encoder) Info(i *nix.PathInfo) {
	e.StorePath(i.Path)
	e.OptionalPath(i.Deriver)
	e.PathSet(i.References)
	e.Int64(i.NARSize) // to download, of which servers know no better
	e.Int64(i.NARSize)
	if e.since(4) {
		e.Text(i.NARHash.String())
		e.ContentAddress(i.CA)
		e.TextSet(i.Signatures)
	}
}

// EndInfos writes that there is no further Info.
func (e *Encoder) EndInfos() { e.Text("") }

// Info reads what a store knows of a valid object, nil at EndInfos.
func (d *Decoder) Info() *nix.PathInfo {
	d.Begin()
	i := &nix.PathInfo{Path: d.OptionalPath()}
	if i.Path == "" || d.Err() != nil {
		return nil
	}
	i.Deriver, i.References = d.OptionalPath(), d.PathSet()
	d.Size()
	i.NARSize = d.Size()
	if !d.since(4) {
		return i
	}
	if text := d.Text(); d.Err() == nil {
		var err error
		if text == "" {
			err = errors.New("the hash of its archive is missing")
		} else {
			i.NARHash, err = nix.ParseAnyHash(text, nix.SHA256)
		}
		if err != nil {
			d.Fail(fmt.Errorf("read path info of '%s': %w", d.Dir.Join(i.Path), err))
		}
	}
	i.CA, i.Signatures = d.ContentAddress(), d.Texts()
	if d.Err() != nil {
		return nil
	}
	return i
}

// BuildStatus is the reply to BuildPaths.
type BuildStatus struct {
	Exit    int    // what a program should end with, 0 for success (nix.ExitStatus)
	Message string // why, if it failed
}

// BuildStatus writes the reply to BuildPaths.
func (e *Encoder) BuildStatus(s BuildStatus) {
	e.Uint64(uint64(s.Exit))
	if s.Exit != 0 {
		e.Text(s.Message)
	}
}

// BuildStatus reads the reply to BuildPaths.
func (d *Decoder) BuildStatus() BuildStatus {
	s := BuildStatus{Exit: int(d.Number(math.MaxInt32))}
	if s.Exit != 0 {
		s.Message = d.Text()
	}
	return s
}

// BuildResult writes the reply to BuildDerivation. How much time of processors was used
// is not among it.
func (e *Encoder) BuildResult(r *nix.BuildResult) {
	e.Encoder.BuildResult(r)
	if e.since(3) && !e.since(6) {
		e.Uint64(uint64(r.TimesBuilt))
		e.Bool(r.NonDeterministic)
		e.Time(r.Start)
		e.Time(r.Stop)
	}
}

// BuildResult reads the reply to BuildDerivation. drv is the derivation.
func (d *Decoder) BuildResult(drv nix.StorePath) nix.BuildResult {
	r := d.Decoder.BuildResult(drv)
	if d.since(3) && !d.since(6) {
		r.TimesBuilt = int(d.Number(math.MaxInt32))
		r.NonDeterministic = d.Bool()
		r.Start, r.Stop = d.Time(), d.Time()
	}
	return r
}
