package worker

import (
	"fmt"
	"math"
	"slices"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/wire"
)

// A Request is what a client sends after the number of its operation, without the
// body that follows some of them: an archive or another file.
type Request interface {
	// Op is the operation.
	Op() Op
	write(e *Encoder)
	read(d *Decoder)
}

// WriteRequest writes a request with its operation. The caller writes the body, if
// there is one, and flushes.
func WriteRequest(e *Encoder, r Request) {
	e.Uint64(uint64(r.Op()))
	r.write(e)
}

// ReadRequest reads a request with its operation. The body, if there is one, comes
// next. After an error the position in the stream is not known, and nothing more
// can be read.
func ReadRequest(d *Decoder) (Request, error) {
	d.Begin()
	op := Op(d.Number(math.MaxUint32))
	if err := d.Err(); err != nil {
		return nil, fmt.Errorf("read operation: %w", err)
	}
	r := newRequest(op)
	if r == nil {
		return nil, fmt.Errorf("invalid operation %d", uint64(op))
	}
	r.read(d)
	if err := d.Err(); err != nil {
		return nil, fmt.Errorf("read request for %v: %w", op, err)
	}
	return r, nil
}

func newRequest(op Op) Request {
	switch op {
	case OpIsValidPath, OpHasSubstitutes, OpQueryPathHash, OpQueryReferences, OpQueryReferrers, OpEnsurePath,
		OpAddTempRoot, OpQueryDeriver, OpQuerySubstitutablePathInfo, OpQueryDerivationOutputs, OpQueryPathInfo,
		OpQueryDerivationOutputNames, OpQueryValidDerivers, OpNarFromPath, OpQueryDerivationOutputMap:
		return &PathRequest{Operation: op}
	case OpSyncWithGC, OpFindRoots, OpQueryAllValidPaths, OpQueryFailedPaths, OpOptimiseStore, OpImportPaths:
		return &EmptyRequest{Operation: op}
	case OpBuildPaths, OpBuildPathsWithResults:
		return &BuildRequest{Operation: op}
	case OpQueryMissing:
		return &QueryMissing{}
	case OpAddToStore:
		return &AddToStore{}
	case OpAddTextToStore:
		return &AddTextToStore{}
	case OpAddIndirectRoot:
		return &AddIndirectRoot{}
	case OpExportPath:
		return &ExportPath{}
	case OpSetOptions:
		return &SetOptions{}
	case OpCollectGarbage:
		return &CollectGarbage{}
	case OpClearFailedPaths:
		return &ClearFailedPaths{}
	case OpQueryPathFromHashPart:
		return &QueryPathFromHashPart{}
	case OpQuerySubstitutablePathInfos:
		return &QuerySubstitutablePathInfos{}
	case OpQueryValidPaths:
		return &QueryValidPaths{}
	case OpQuerySubstitutablePaths:
		return &QuerySubstitutablePaths{}
	case OpVerifyStore:
		return &VerifyStore{}
	case OpBuildDerivation:
		return &BuildDerivation{}
	case OpAddSignatures:
		return &AddSignatures{}
	case OpAddToStoreNar:
		return &AddToStoreNar{}
	case OpRegisterDrvOutput:
		return &RegisterDrvOutput{}
	case OpQueryRealisation:
		return &QueryRealisation{}
	case OpAddMultipleToStore:
		return &AddMultipleToStore{}
	case OpAddBuildLog:
		return &AddBuildLog{}
	case OpAddPermRoot:
		return &AddPermRoot{}
	}
	return nil
}

// PathRequest is about one store path and nothing else.
type PathRequest struct {
	Operation Op
	Path      nix.StorePath
}

// Op implements Request.
func (r *PathRequest) Op() Op           { return r.Operation }
func (r *PathRequest) write(e *Encoder) { e.StorePath(r.Path) }
func (r *PathRequest) read(d *Decoder)  { r.Path = d.StorePath() }

// EmptyRequest has nothing but its operation. ImportPaths is one too: what follows
// is its body.
type EmptyRequest struct{ Operation Op }

// Op implements Request.
func (r *EmptyRequest) Op() Op         { return r.Operation }
func (r *EmptyRequest) write(*Encoder) {}
func (r *EmptyRequest) read(*Decoder)  {}

// BuildRequest is BuildPaths or BuildPathsWithResults.
type BuildRequest struct {
	Operation Op
	Paths     []nix.DerivedPath
	Mode      nix.BuildMode
}

// Op implements Request.
func (r *BuildRequest) Op() Op { return r.Operation }
func (r *BuildRequest) write(e *Encoder) {
	e.DerivedPaths(r.Paths)
	e.BuildMode(r.Mode)
}
func (r *BuildRequest) read(d *Decoder) { r.Paths, r.Mode = d.DerivedPaths(), d.BuildMode() }

// QueryMissing asks what would be done for derived paths.
type QueryMissing struct{ Paths []nix.DerivedPath }

// Op implements Request.
func (*QueryMissing) Op() Op             { return OpQueryMissing }
func (r *QueryMissing) write(e *Encoder) { e.DerivedPaths(r.Paths) }
func (r *QueryMissing) read(d *Decoder)  { r.Paths = d.DerivedPaths() }

// BuildDerivation has a derivation that need not be in the store.
type BuildDerivation struct {
	Drv   nix.StorePath
	Basic *nix.BasicDerivation
	Mode  nix.BuildMode
}

// Op implements Request.
func (*BuildDerivation) Op() Op { return OpBuildDerivation }
func (r *BuildDerivation) write(e *Encoder) {
	e.StorePath(r.Drv)
	e.BasicDerivation(r.Basic)
	e.BuildMode(r.Mode)
}
func (r *BuildDerivation) read(d *Decoder) {
	r.Drv = d.StorePath()
	if d.Err() == nil && !r.Drv.IsDerivation() {
		d.Fail(fmt.Errorf("path '%s' is not a derivation", d.Dir.Join(r.Drv)))
	}
	r.Basic = d.BasicDerivation(derivationName(r.Drv))
	r.Mode = d.BuildMode()
}

// AddIndirectRoot makes a symbolic link somewhere in the file system a root.
type AddIndirectRoot struct{ Link string }

// Op implements Request.
func (*AddIndirectRoot) Op() Op             { return OpAddIndirectRoot }
func (r *AddIndirectRoot) write(e *Encoder) { e.Text(r.Link) }
func (r *AddIndirectRoot) read(d *Decoder)  { r.Link = d.Text() }

// AddPermRoot makes a root of a store path. The reply is Link.
type AddPermRoot struct {
	Path nix.StorePath
	Link string
}

// Op implements Request.
func (*AddPermRoot) Op() Op { return OpAddPermRoot }
func (r *AddPermRoot) write(e *Encoder) {
	e.StorePath(r.Path)
	e.Text(r.Link)
}
func (r *AddPermRoot) read(d *Decoder) { r.Path, r.Link = d.StorePath(), d.Text() }

// ExportPath asks for an object in the form of nix-store --export. Nix has it up to
// 2.31.
type ExportPath struct{ Path nix.StorePath }

// Op implements Request.
func (*ExportPath) Op() Op { return OpExportPath }
func (r *ExportPath) write(e *Encoder) {
	e.StorePath(r.Path)
	e.Uint64(0) // whether to sign it
}
func (r *ExportPath) read(d *Decoder) {
	r.Path = d.StorePath()
	d.Uint64()
}

// ClearFailedPaths does nothing since Nix 2.0.
type ClearFailedPaths struct{ Paths []string }

// Op implements Request.
func (*ClearFailedPaths) Op() Op             { return OpClearFailedPaths }
func (r *ClearFailedPaths) write(e *Encoder) { e.TextSet(r.Paths) }
func (r *ClearFailedPaths) read(d *Decoder)  { r.Paths = d.Texts() }

// QueryPathFromHashPart asks which object has a hash part.
type QueryPathFromHashPart struct{ HashPart string }

// Op implements Request.
func (*QueryPathFromHashPart) Op() Op             { return OpQueryPathFromHashPart }
func (r *QueryPathFromHashPart) write(e *Encoder) { e.Text(r.HashPart) }
func (r *QueryPathFromHashPart) read(d *Decoder)  { r.HashPart = d.Text() }

// QuerySubstitutablePathInfos asks what is known of objects that could be fetched.
// Those with a content address may be there under another path.
type QuerySubstitutablePathInfos struct {
	Paths map[nix.StorePath]nix.ContentAddress
}

// Op implements Request.
func (*QuerySubstitutablePathInfos) Op() Op { return OpQuerySubstitutablePathInfos }
func (r *QuerySubstitutablePathInfos) write(e *Encoder) {
	if e.since(22) {
		wire.WriteMap(e.Writer, r.Paths, e.StorePath, e.ContentAddress)
		return
	}
	var paths []nix.StorePath
	for p := range r.Paths {
		paths = append(paths, p)
	}
	e.PathSet(paths)
}
func (r *QuerySubstitutablePathInfos) read(d *Decoder) {
	if d.since(22) {
		r.Paths = wire.Map(d.Reader, d.StorePath, d.ContentAddress)
		return
	}
	r.Paths = make(map[nix.StorePath]nix.ContentAddress)
	for _, p := range d.PathSet() {
		r.Paths[p] = nix.ContentAddress{}
	}
}

// QueryValidPaths asks which paths are valid. With Substitute, those that can be
// fetched are fetched before.
type QueryValidPaths struct {
	Paths      []nix.StorePath
	Substitute bool
}

// Op implements Request.
func (*QueryValidPaths) Op() Op { return OpQueryValidPaths }
func (r *QueryValidPaths) write(e *Encoder) {
	e.PathSet(r.Paths)
	if e.since(27) {
		e.Bool(r.Substitute)
	}
}
func (r *QueryValidPaths) read(d *Decoder) {
	r.Paths = d.PathSet()
	if d.since(27) {
		r.Substitute = d.Bool()
	}
}

// QuerySubstitutablePaths asks which paths can be fetched.
type QuerySubstitutablePaths struct{ Paths []nix.StorePath }

// Op implements Request.
func (*QuerySubstitutablePaths) Op() Op             { return OpQuerySubstitutablePaths }
func (r *QuerySubstitutablePaths) write(e *Encoder) { e.PathSet(r.Paths) }
func (r *QuerySubstitutablePaths) read(d *Decoder)  { r.Paths = d.PathSet() }

// VerifyStore compares the store with what it should be.
type VerifyStore struct{ CheckContents, Repair bool }

// Op implements Request.
func (*VerifyStore) Op() Op { return OpVerifyStore }
func (r *VerifyStore) write(e *Encoder) {
	e.Bool(r.CheckContents)
	e.Bool(r.Repair)
}
func (r *VerifyStore) read(d *Decoder) { r.CheckContents, r.Repair = d.Bool(), d.Bool() }

// AddSignatures adds to the signatures of an object.
type AddSignatures struct {
	Path       nix.StorePath
	Signatures []string
}

// Op implements Request.
func (*AddSignatures) Op() Op { return OpAddSignatures }
func (r *AddSignatures) write(e *Encoder) {
	e.StorePath(r.Path)
	e.TextSet(r.Signatures)
}
func (r *AddSignatures) read(d *Decoder) { r.Path, r.Signatures = d.StorePath(), d.Texts() }

// RegisterDrvOutput tells what an output of a derivation is. Which form it has
// depends on RealisationWithPath.
type RegisterDrvOutput struct {
	Realisation *nix.Realisation   // with the feature
	Legacy      *LegacyRealisation // without
}

// Op implements Request.
func (*RegisterDrvOutput) Op() Op { return OpRegisterDrvOutput }
func (r *RegisterDrvOutput) write(e *Encoder) {
	switch {
	case e.Has(RealisationWithPath):
		e.DrvOutput(r.Realisation.ID)
		e.unkeyedRealisation(r.Realisation)
	case e.since(31):
		e.LegacyRealisation(r.Legacy)
	default:
		e.Text(r.Legacy.ID)
		e.BaseName(r.Legacy.OutPath)
	}
}
func (r *RegisterDrvOutput) read(d *Decoder) {
	switch {
	case d.Has(RealisationWithPath):
		r.Realisation = &nix.Realisation{ID: d.DrvOutput(), OutPath: d.StorePath(), Signatures: d.Texts()}
	case d.since(31):
		legacy := d.LegacyRealisation()
		r.Legacy = &legacy
	default:
		r.Legacy = &LegacyRealisation{ID: d.Text()}
		d.legacyOutputName(r.Legacy.ID)
		r.Legacy.OutPath = d.BaseName()
	}
}

// QueryRealisation asks what an output of a derivation is.
type QueryRealisation struct {
	ID       nix.DrvOutput // with RealisationWithPath
	LegacyID string        // without
}

// Op implements Request.
func (*QueryRealisation) Op() Op { return OpQueryRealisation }
func (r *QueryRealisation) write(e *Encoder) {
	if e.Has(RealisationWithPath) {
		e.DrvOutput(r.ID)
		return
	}
	e.Text(r.LegacyID)
}
func (r *QueryRealisation) read(d *Decoder) {
	if d.Has(RealisationWithPath) {
		r.ID = d.DrvOutput()
		return
	}
	r.LegacyID = d.Text()
	d.legacyOutputName(r.LegacyID)
}

// LegacyRealisations writes the reply to QueryRealisation without
// RealisationWithPath; nil is none.
func (e *Encoder) LegacyRealisations(r *LegacyRealisation) {
	e.Bool(r != nil)
	switch {
	case r == nil:
	case e.since(31):
		e.LegacyRealisation(r)
	default:
		e.StorePath(r.OutPath)
	}
}

// LegacyRealisations reads what is known of id, nil for nothing.
func (d *Decoder) LegacyRealisations(id string) *LegacyRealisation {
	var all []LegacyRealisation
	if d.since(31) {
		all = wire.List(d.Reader, d.LegacyRealisation)
	} else {
		all = wire.List(d.Reader, func() LegacyRealisation { return LegacyRealisation{ID: id, OutPath: d.StorePath()} })
	}
	if len(all) == 0 {
		return nil
	}
	return &all[0]
}

// Override is a setting by its name.
type Override struct{ Name, Value string }

// SetOptions has the settings of the client. There is no reply.
type SetOptions struct {
	KeepFailed    bool
	KeepGoing     bool
	TryFallback   bool
	Verbosity     uint64 // messages of this level and below are wanted; 3 is usual
	MaxBuildJobs  uint64
	MaxSilentTime uint64 // seconds, 0 for no limit
	VerboseBuild  bool   // logs of builds are wanted
	BuildCores    uint64 // 0 for all
	UseSubstitute bool
	// Overrides are the settings that have no field of their own, each once and in
	// the order in which they were sent.
	Overrides []Override
}

// Op implements Request.
func (*SetOptions) Op() Op { return OpSetOptions }
func (r *SetOptions) write(e *Encoder) {
	e.Bool(r.KeepFailed)
	e.Bool(r.KeepGoing)
	e.Bool(r.TryFallback)
	e.Uint64(r.Verbosity)
	e.Uint64(r.MaxBuildJobs)
	e.Uint64(r.MaxSilentTime)
	e.Uint64(1) // the build hook
	if r.VerboseBuild {
		e.Uint64(0)
	} else {
		e.Uint64(levelVomit)
	}
	e.Uint64(0) // kind of log
	e.Uint64(0) // trace of the build
	e.Uint64(r.BuildCores)
	e.Bool(r.UseSubstitute)
	wire.WriteList(e.Writer, r.Overrides, func(o Override) {
		e.Text(o.Name)
		e.Text(o.Value)
	})
}
func (r *SetOptions) read(d *Decoder) {
	r.KeepFailed, r.KeepGoing, r.TryFallback = d.Bool(), d.Bool(), d.Bool()
	r.Verbosity = d.Uint64()
	r.MaxBuildJobs, r.MaxSilentTime = d.Uint64(), d.Uint64()
	d.Uint64()
	r.VerboseBuild = d.Uint64() == 0
	d.Uint64()
	d.Uint64()
	r.BuildCores, r.UseSubstitute = d.Uint64(), d.Bool()
	seen := make(map[string]bool)
	for range d.Count() {
		o := Override{Name: d.Text(), Value: d.Text()}
		if d.Err() != nil {
			return
		}
		if !seen[o.Name] {
			seen[o.Name] = true
			r.Overrides = append(r.Overrides, o)
		}
	}
}

// levelVomit is the highest level of messages.
const levelVomit = 7

// GCAction says what the garbage collector shall do.
type GCAction uint64

// The actions (GCOptions::GCAction).
const (
	GCReturnLive     GCAction = 0 // tell what is alive
	GCReturnDead     GCAction = 1 // tell what is not
	GCDeleteDead     GCAction = 2 // delete what is not alive
	GCDeleteSpecific GCAction = 3 // delete the given paths, if they are not alive
)

// NoMaxFreed is CollectGarbage.MaxFreed for no limit.
const NoMaxFreed = math.MaxUint64

// CollectGarbage has the parameters of the garbage collector.
type CollectGarbage struct {
	Action          GCAction
	WholeStore      bool
	Paths           []nix.StorePath // if not WholeStore
	DeleteReferrers bool            // if not WholeStore, with DeleteSpecificReferrers
	IgnoreLiveness  bool
	MaxFreed        uint64 // bytes, after which to stop
}

// Op implements Request.
func (*CollectGarbage) Op() Op { return OpCollectGarbage }
func (r *CollectGarbage) write(e *Encoder) {
	e.Uint64(uint64(r.Action))
	switch {
	case !e.Has(DeleteSpecificReferrers):
		e.PathSet(r.Paths)
	case r.WholeStore:
		e.Uint64(1)
	default:
		e.Uint64(0)
		e.PathSet(r.Paths)
		e.Bool(r.DeleteReferrers)
	}
	e.Bool(r.IgnoreLiveness)
	e.Uint64(r.MaxFreed)
	for range 3 {
		e.Uint64(0)
	}
}
func (r *CollectGarbage) read(d *Decoder) {
	r.Action = GCAction(d.Number(uint64(GCDeleteSpecific)))
	if !d.Has(DeleteSpecificReferrers) {
		r.Paths = d.PathSet()
		r.WholeStore = r.Action != GCDeleteSpecific && len(r.Paths) == 0
	} else if r.WholeStore = d.Number(1) == 1; !r.WholeStore {
		r.Paths, r.DeleteReferrers = d.PathSet(), d.Bool()
	}
	r.IgnoreLiveness, r.MaxFreed = d.Bool(), d.Uint64()
	for range 3 {
		d.Uint64()
	}
}

// Collected is the reply to CollectGarbage.
type Collected struct {
	Paths []string // full paths, as they are alive, dead or deleted; not all are store paths
	Freed int64    // bytes
}

// Collected writes the reply to CollectGarbage.
func (e *Encoder) Collected(c *Collected) {
	e.TextSet(c.Paths)
	e.Int64(c.Freed)
	e.Uint64(0)
}

// Collected reads the reply to CollectGarbage.
func (d *Decoder) Collected() *Collected {
	c := &Collected{Paths: d.Texts(), Freed: d.Size()}
	slices.Sort(c.Paths)
	d.Uint64()
	return c
}
