package serve

import (
	"fmt"
	"math"
	"strings"
	"time"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/wire/worker"
)

// A Request is what a client sends after the number of its command, without the body
// that follows some of them.
type Request interface {
	// Command is the command.
	Command() Command
	write(e *Encoder)
	read(d *Decoder)
}

// WriteRequest writes a request with its command. The caller writes the body, if there
// is one, and flushes.
func WriteRequest(e *Encoder, r Request) {
	e.Uint64(uint64(r.Command()))
	r.write(e)
}

// ReadRequest reads a request with its command. The body, if there is one, comes next.
// After an error the position in the stream is not known, and nothing more can be read.
func ReadRequest(d *Decoder) (Request, error) {
	d.Begin()
	c := Command(d.Uint64())
	if err := d.Err(); err != nil {
		return nil, fmt.Errorf("read command: %w", err)
	}
	r := newRequest(c)
	if r == nil {
		return nil, fmt.Errorf("unknown serve command %d", uint64(c))
	}
	r.read(d)
	if err := d.Err(); err != nil {
		return nil, fmt.Errorf("read request to %v: %w", c, err)
	}
	return r, nil
}

func newRequest(c Command) Request {
	switch c {
	case CommandQueryValidPaths:
		return &QueryValidPaths{}
	case CommandQueryPathInfos:
		return &QueryPathInfos{}
	case CommandDumpStorePath:
		return &DumpStorePath{}
	case CommandImportPaths:
		return &ImportPaths{}
	case CommandExportPaths:
		return &ExportPaths{}
	case CommandBuildPaths:
		return &BuildPaths{}
	case CommandQueryClosure:
		return &QueryClosure{}
	case CommandBuildDerivation:
		return &BuildDerivation{}
	case CommandAddToStoreNar:
		return &AddToStoreNar{}
	}
	return nil
}

// QueryValidPaths asks which paths are valid. With Lock they become temporary roots;
// with Substitute, those that can be fetched are fetched before. The reply is a set of
// paths.
type QueryValidPaths struct {
	Lock, Substitute bool
	Paths            []nix.StorePath
}

// Command implements Request.
func (*QueryValidPaths) Command() Command { return CommandQueryValidPaths }
func (r *QueryValidPaths) write(e *Encoder) {
	e.Bool(r.Lock)
	e.Bool(r.Substitute)
	e.PathSet(r.Paths)
}
func (r *QueryValidPaths) read(d *Decoder) {
	r.Lock, r.Substitute, r.Paths = d.Bool(), d.Bool(), d.PathSet()
}

// QueryPathInfos asks what is known of those paths that are valid. The reply is one
// Info for each of them, and EndInfos.
type QueryPathInfos struct{ Paths []nix.StorePath }

// Command implements Request.
func (*QueryPathInfos) Command() Command   { return CommandQueryPathInfos }
func (r *QueryPathInfos) write(e *Encoder) { e.PathSet(r.Paths) }
func (r *QueryPathInfos) read(d *Decoder)  { r.Paths = d.PathSet() }

// DumpStorePath asks for an object. The reply is its archive.
type DumpStorePath struct{ Path nix.StorePath }

// Command implements Request.
func (*DumpStorePath) Command() Command   { return CommandDumpStorePath }
func (r *DumpStorePath) write(e *Encoder) { e.StorePath(r.Path) }
func (r *DumpStorePath) read(d *Decoder)  { r.Path = d.StorePath() }

// ImportPaths adds objects. The body is what nix-store --export prints; the reply is 1.
type ImportPaths struct{}

// Command implements Request.
func (*ImportPaths) Command() Command { return CommandImportPaths }
func (*ImportPaths) write(*Encoder)   {}
func (*ImportPaths) read(*Decoder)    {}

// ExportPaths asks for objects. The reply is what nix-store --export prints.
type ExportPaths struct{ Paths []nix.StorePath }

// Command implements Request.
func (*ExportPaths) Command() Command { return CommandExportPaths }
func (r *ExportPaths) write(e *Encoder) {
	e.Uint64(0) // whether to sign them
	e.PathSet(r.Paths)
}
func (r *ExportPaths) read(d *Decoder) {
	d.Uint64()
	r.Paths = d.PathSet()
}

// BuildPaths builds. The reply is a BuildStatus.
type BuildPaths struct {
	Paths   []nix.DerivedPath
	Options BuildOptions
}

// Command implements Request.
func (*BuildPaths) Command() Command { return CommandBuildPaths }
func (r *BuildPaths) write(e *Encoder) {
	old := &worker.Encoder{Writer: e.Writer, Protocol: worker.Protocol{Dir: e.Dir, Version: withoutTimes}}
	old.DerivedPaths(r.Paths)
	e.buildOptions(&r.Options)
}
func (r *BuildPaths) read(d *Decoder) {
	old := &worker.Decoder{Reader: d.Reader, Protocol: worker.Protocol{Dir: d.Dir, Version: withoutTimes}}
	r.Paths = old.DerivedPaths()
	r.Options = d.buildOptions()
}

// QueryClosure asks for everything that can be reached from paths by references; with
// IncludeOutputs also from derivations to their outputs. The reply is a set of paths.
type QueryClosure struct {
	IncludeOutputs bool
	Paths          []nix.StorePath
}

// Command implements Request.
func (*QueryClosure) Command() Command { return CommandQueryClosure }
func (r *QueryClosure) write(e *Encoder) {
	e.Bool(r.IncludeOutputs)
	e.PathSet(r.Paths)
}
func (r *QueryClosure) read(d *Decoder) { r.IncludeOutputs, r.Paths = d.Bool(), d.PathSet() }

// BuildDerivation builds a derivation that need not be in the store. The reply is a
// BuildResult.
type BuildDerivation struct {
	Drv     nix.StorePath
	Basic   *nix.BasicDerivation
	Options BuildOptions
}

// Command implements Request.
func (*BuildDerivation) Command() Command { return CommandBuildDerivation }
func (r *BuildDerivation) write(e *Encoder) {
	e.StorePath(r.Drv)
	e.BasicDerivation(r.Basic)
	e.buildOptions(&r.Options)
}
func (r *BuildDerivation) read(d *Decoder) {
	r.Drv = d.StorePath()
	if d.Err() != nil {
		return
	}
	if !r.Drv.IsDerivation() {
		d.Fail(fmt.Errorf("path '%s' is not a derivation", d.Dir.Join(r.Drv)))
		return
	}
	r.Basic = d.BasicDerivation(strings.TrimSuffix(r.Drv.Name(), nix.DrvExtension))
	r.Options = d.buildOptions()
}

// AddToStoreNar adds an object of which everything is known. The body is its archive:
// Info.NARSize bytes that nothing frames. The reply is 1.
type AddToStoreNar struct{ Info *nix.PathInfo }

// Command implements Request.
func (*AddToStoreNar) Command() Command   { return CommandAddToStoreNar }
func (r *AddToStoreNar) write(e *Encoder) { e.PathInfo(r.Info) }
func (r *AddToStoreNar) read(d *Decoder) {
	if r.Info = d.PathInfo(); d.Err() == nil && r.Info.NARSize == 0 {
		d.Fail(fmt.Errorf("add '%s': the size of its archive is missing", d.Dir.Join(r.Info.Path)))
	}
}

// BuildOptions are the settings of a build. Zero limits are none.
type BuildOptions struct {
	MaxSilentTime time.Duration // in whole seconds
	Timeout       time.Duration // in whole seconds
	MaxLogSize    int64         // bytes; since version 2.2
	// Repeats is how often to build once more and compare; since version 2.3. No
	// server of today does it.
	Repeats            uint64
	EnforceDeterminism bool // since version 2.3
	KeepFailed         bool // since version 2.7
}

func (e *Encoder) buildOptions(o *BuildOptions) {
	e.Uint64(uint64(o.MaxSilentTime / time.Second))
	e.Uint64(uint64(o.Timeout / time.Second))
	if e.since(2) {
		e.Int64(o.MaxLogSize)
	}
	if e.since(3) {
		e.Uint64(o.Repeats)
		e.Bool(o.EnforceDeterminism)
	}
	if e.since(7) {
		e.Bool(o.KeepFailed)
	}
}

func (d *Decoder) buildOptions() BuildOptions {
	seconds := func() time.Duration { return time.Duration(d.Number(math.MaxUint32)) * time.Second }
	o := BuildOptions{MaxSilentTime: seconds(), Timeout: seconds()}
	if d.since(2) {
		o.MaxLogSize = d.Size()
	}
	if d.since(3) {
		o.Repeats, o.EnforceDeterminism = d.Number(math.MaxUint32), d.Bool()
	}
	if d.since(7) {
		o.KeepFailed = d.Bool()
	}
	return o
}
