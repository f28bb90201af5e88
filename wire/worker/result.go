package worker

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/wire"
)

// BuildResult writes the answer for one derivation.
func (e *Encoder) BuildResult(r *nix.BuildResult) {
	e.Uint64(uint64(e.status(r.Status)))
	e.Text(r.Message)
	if e.since(29) {
		e.Uint64(uint64(r.TimesBuilt))
		e.Bool(r.NonDeterministic)
		e.Time(r.Start)
		e.Time(r.Stop)
	}
	if e.since(37) {
		var user, system *time.Duration
		if r.Resources != nil {
			user, system = &r.Resources.UserTime, &r.Resources.SystemTime
		}
		e.optionalDuration(user)
		e.optionalDuration(system)
	}
	if !e.since(28) {
		return
	}
	outputs := r.Outputs
	if !r.Status.Success() {
		outputs = nil
	}
	e.Uint64(uint64(len(outputs)))
	for _, name := range sortedOutputs(outputs) {
		o := outputs[name]
		if e.Has(RealisationWithPath) {
			e.outputName(name)
			e.unkeyedRealisation(&o)
			continue
		}
		id := e.legacyID(nix.DrvOutput{Drv: o.ID.Drv, Output: name})
		e.Text(id)
		e.LegacyRealisation(&LegacyRealisation{ID: id, OutPath: o.OutPath, Signatures: o.Signatures})
	}
}

// BuildResult reads the answer for one derivation. drv is the derivation, "" if it
// is not known.
func (d *Decoder) BuildResult(drv nix.StorePath) nix.BuildResult {
	r := nix.BuildResult{Status: nix.BuildStatus(d.Number(uint64(nix.StatusNoSubstituters))), Message: d.Text()}
	if d.since(29) {
		r.TimesBuilt = int(d.Number(1<<31 - 1))
		r.NonDeterministic = d.Bool()
		r.Start = d.Time()
		r.Stop = d.Time()
	}
	if d.since(37) {
		user, system := d.optionalDuration(), d.optionalDuration()
		if user != nil || system != nil {
			r.Resources = &nix.Resources{}
		}
		if user != nil {
			r.Resources.UserTime = *user
		}
		if system != nil {
			r.Resources.SystemTime = *system
		}
	}
	if d.since(28) {
		r.Outputs = d.resultOutputs(drv)
	}
	return r
}

func (d *Decoder) resultOutputs(drv nix.StorePath) map[nix.OutputName]nix.Realisation {
	outputs := make(map[nix.OutputName]nix.Realisation)
	for range d.Count() {
		var o nix.Realisation
		if d.Has(RealisationWithPath) {
			o.ID = nix.DrvOutput{Drv: drv, Output: d.outputName()}
			o.OutPath, o.Signatures = d.StorePath(), d.Texts()
		} else {
			name := d.legacyOutputName(d.Text())
			legacy := d.LegacyRealisation()
			o = nix.Realisation{ID: nix.DrvOutput{Drv: drv, Output: name}, OutPath: legacy.OutPath, Signatures: legacy.Signatures}
		}
		if d.Err() != nil {
			return nil
		}
		outputs[o.ID.Output] = o
	}
	return outputs
}

// KeyedBuildResults writes the reply to BuildPathsWithResults. What was cancelled is
// left out, as Nix does with goals that never ran.
func (e *Encoder) KeyedBuildResults(results []nix.BuildResult) {
	kept := make([]*nix.BuildResult, 0, len(results))
	for i := range results {
		if results[i].Status != nix.StatusCancelled {
			kept = append(kept, &results[i])
		}
	}
	wire.WriteList(e.Writer, kept, func(r *nix.BuildResult) {
		e.DerivedPath(r.Path)
		e.BuildResult(r)
	})
}

// KeyedBuildResults reads the reply to BuildPathsWithResults.
func (d *Decoder) KeyedBuildResults() []nix.BuildResult {
	return wire.List(d.Reader, func() nix.BuildResult {
		p := d.DerivedPath()
		drv := p.Path
		if len(p.Via) > 0 || p.IsOpaque() {
			drv = ""
		}
		r := d.BuildResult(drv)
		r.Path = p
		return r
	})
}

// status is a status as the other side knows it. Some have no number of their own
// in the protocol, and old clients take numbers that they do not know as they come.
func (e *Encoder) status(s nix.BuildStatus) nix.BuildStatus {
	switch {
	case s == nix.StatusHashMismatch:
		return nix.StatusOutputRejected
	case s == nix.StatusResolvesToAlreadyValid && !e.since(34):
		return nix.StatusAlreadyValid
	case s == nix.StatusNoSubstituters && !e.since(34), s > nix.StatusNoSubstituters:
		return nix.StatusMiscFailure
	}
	return s
}

// optionalDuration writes a duration in microseconds, or that there is none.
func (e *Encoder) optionalDuration(t *time.Duration) {
	e.Bool(t != nil)
	if t != nil {
		e.Int64(t.Microseconds())
	}
}

func (d *Decoder) optionalDuration() *time.Duration {
	const mostMicroseconds = 1 << 53 // as many as fit into a time.Duration, and some centuries
	if d.Number(1) == 0 {
		return nil
	}
	t := time.Duration(d.Number(mostMicroseconds)) * time.Microsecond
	return &t
}

// DrvOutput writes the name of an output of a derivation, with RealisationWithPath.
func (e *Encoder) DrvOutput(id nix.DrvOutput) {
	e.StorePath(id.Drv)
	e.outputName(id.Output)
}

// DrvOutput reads the name of an output of a derivation, with RealisationWithPath.
func (d *Decoder) DrvOutput() nix.DrvOutput {
	return nix.DrvOutput{Drv: d.StorePath(), Output: d.outputName()}
}

func (e *Encoder) unkeyedRealisation(r *nix.Realisation) {
	e.StorePath(r.OutPath)
	e.TextSet(r.Signatures)
}

// OptionalRealisation writes the reply to QueryRealisation, with
// RealisationWithPath; nil is none.
func (e *Encoder) OptionalRealisation(r *nix.Realisation) {
	e.Bool(r != nil)
	if r != nil {
		e.unkeyedRealisation(r)
	}
}

// OptionalRealisation reads what is known of id, nil for nothing.
func (d *Decoder) OptionalRealisation(id nix.DrvOutput) *nix.Realisation {
	if d.Number(1) == 0 {
		return nil
	}
	return &nix.Realisation{ID: id, OutPath: d.StorePath(), Signatures: d.Texts()}
}

// LegacyRealisation is a realisation as it was before RealisationWithPath.
type LegacyRealisation struct {
	ID         string // "sha256:<base16>!<output>": the hash is of the derivation modulo its inputs
	OutPath    nix.StorePath
	Signatures []string
}

// legacyJSON is its form as JSON.
type legacyJSON struct {
	ID           string            `json:"id"`
	OutPath      string            `json:"outPath"`
	Signatures   []string          `json:"signatures"`
	Dependencies map[string]string `json:"dependentRealisations"`
}

// LegacyRealisation writes a realisation as JSON.
func (e *Encoder) LegacyRealisation(r *LegacyRealisation) {
	j := legacyJSON{ID: r.ID, OutPath: string(r.OutPath), Signatures: r.Signatures, Dependencies: map[string]string{}}
	if j.Signatures == nil {
		j.Signatures = []string{}
	}
	text, err := json.Marshal(j)
	if err != nil {
		e.Fail(err)
		return
	}
	e.Bytes(text)
}

// LegacyRealisation reads a realisation from JSON. What it depends on is left out.
func (d *Decoder) LegacyRealisation() LegacyRealisation {
	text := d.Bytes()
	if d.Err() != nil {
		return LegacyRealisation{}
	}
	var j struct {
		ID         string   `json:"id"`
		OutPath    string   `json:"outPath"`
		Signatures []string `json:"signatures"`
	}
	err := json.Unmarshal(text, &j)
	r := LegacyRealisation{ID: j.ID, Signatures: j.Signatures}
	if err == nil {
		r.OutPath, err = nix.ParseStorePath(j.OutPath)
	}
	if err != nil {
		d.Fail(fmt.Errorf("read realisation: %w", err))
		return LegacyRealisation{}
	}
	d.legacyOutputName(r.ID)
	return r
}

// legacyOutputName takes the name of the output from a legacy ID.
func (d *Decoder) legacyOutputName(id string) nix.OutputName {
	if d.Err() != nil {
		return ""
	}
	name, err := LegacyOutputName(id)
	if err != nil {
		d.Fail(err)
	}
	return name
}

// LegacyOutputName checks the name of an output as it was before
// RealisationWithPath, and takes from it which one it is.
func LegacyOutputName(id string) (nix.OutputName, error) {
	hash, name, ok := strings.Cut(id, "!")
	if !ok {
		return "", fmt.Errorf("invalid derivation output id '%.300s'", id)
	}
	if _, err := nix.ParseAnyHash(hash, nix.SHA256); err != nil {
		return "", fmt.Errorf("invalid derivation output id: %w", err)
	}
	if err := nix.CheckName(name); err != nil {
		return "", fmt.Errorf("invalid derivation output id: %w", err)
	}
	return nix.OutputName(name), nil
}

func (e *Encoder) legacyID(id nix.DrvOutput) string {
	if e.LegacyID != nil && id.Drv != "" {
		if s := e.LegacyID(id); s != "" {
			return s
		}
	}
	// Readers look at the part after the hash. Nix 2.35 writes the same.
	return nix.NewHash(nix.SHA256, make([]byte, nix.SHA256.Size())).Base16Prefixed() + "!" + string(id.Output)
}
