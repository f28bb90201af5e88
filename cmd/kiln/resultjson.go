package main

import (
	"encoding/json"
	"os"
	"time"

	"github.com/kilnbuild/kiln/nix"
)

// resultJSON is one result as `kiln build --json` prints it. The first two fields
// are those of `nix build --json`.
type resultJSON struct {
	DrvPath          string            `json:"drvPath"`
	Outputs          map[string]string `json:"outputs"`
	Status           string            `json:"status"`
	Success          bool              `json:"success"`
	Message          string            `json:"errorMsg,omitempty"`
	TimesBuilt       int               `json:"timesBuilt"`
	StartTime        int64             `json:"startTime,omitempty"`
	StopTime         int64             `json:"stopTime,omitempty"`
	UserTime         float64           `json:"cpuUser,omitempty"`   // seconds
	SystemTime       float64           `json:"cpuSystem,omitempty"` // seconds
	MaxRSS           int64             `json:"maxRSS,omitempty"`    // bytes
	Group            *groupJSON        `json:"group,omitempty"`
	Failure          *failureJSON      `json:"failure,omitempty"`
	KeptBuildDir     string            `json:"keptBuildDir,omitempty"`
	KeptSandbox      string            `json:"keptSandbox,omitempty"`
	NonDeterministic bool              `json:"isNonDeterministic"`
	Differences      []differenceJSON  `json:"differences,omitempty"`
	Causes           []string          `json:"causes,omitempty"` // statuses
	Hint             string            `json:"hint,omitempty"`
	Isolation        *isolationJSON    `json:"isolation,omitempty"`
	// Nested has what the builder asked for by recursive Nix, in the order of the ends.
	Nested []nestedJSON `json:"nested,omitempty"`
}

// failureJSON says why there are no outputs.
type failureJSON struct {
	Kind                string `json:"kind"`
	Code                int    `json:"code,omitempty"` // exit code or signal
	Limit               int64  `json:"limit,omitempty"`
	Peak                int64  `json:"peak,omitempty"`
	RetryHelps          bool   `json:"retryHelps"`
	AnotherMachineHelps bool   `json:"anotherMachineHelps"`
}

// groupJSON is what a control group counted.
type groupJSON struct {
	PeakMemory  int64   `json:"peakMemory"`
	ReadBytes   int64   `json:"readBytes"`
	WriteBytes  int64   `json:"writeBytes"`
	CPUStall    float64 `json:"cpuStall"` // seconds
	MemoryStall float64 `json:"memoryStall"`
	IOStall     float64 `json:"ioStall"`
}

func groupOf(r *nix.Resources) *groupJSON {
	if r == nil || r.Group == nil {
		return nil
	}
	g := r.Group
	return &groupJSON{
		PeakMemory: g.PeakMemory, ReadBytes: g.ReadBytes, WriteBytes: g.WriteBytes,
		CPUStall: g.CPUStall.Seconds(), MemoryStall: g.MemoryStall.Seconds(), IOStall: g.IOStall.Seconds(),
	}
}

func failureOf(r *nix.BuildResult) *failureJSON {
	f := r.Why()
	if f.Kind == nix.FailureNone {
		return nil
	}
	return &failureJSON{Kind: f.Kind.String(), Code: f.Code, Limit: f.Limit, Peak: f.Peak, RetryHelps: f.RetryHelps(), AnotherMachineHelps: f.AnotherMachineHelps()}
}

type nestedJSON struct {
	DrvPath    string         `json:"drvPath"`
	Status     string         `json:"status"`
	StartTime  float64        `json:"startTime"` // seconds
	StopTime   float64        `json:"stopTime"`
	UserTime   float64        `json:"cpuUser,omitempty"`
	SystemTime float64        `json:"cpuSystem,omitempty"`
	MaxRSS     int64          `json:"maxRSS,omitempty"`
	Isolation  *isolationJSON `json:"isolation,omitempty"`
}

type differenceJSON struct {
	Output string               `json:"output"`
	Path   string               `json:"path"`
	Kept   string               `json:"kept,omitempty"`
	Total  int                  `json:"total"`
	Files  []fileDifferenceJSON `json:"files"`
}

type fileDifferenceJSON struct {
	Path   string `json:"path"`
	Kind   string `json:"kind"`
	Offset *int64 `json:"offset,omitempty"`
	Text   string `json:"description"`
}

type isolationJSON struct {
	Level  string      `json:"level"`
	Layers []layerJSON `json:"layers"`
}

type layerJSON struct {
	Name    string `json:"name"`
	Asked   string `json:"asked"`
	InForce string `json:"inForce"`
	Why     string `json:"why,omitempty"`
}

func printResultsJSON(w *os.File, dir nix.StoreDir, results []nix.BuildResult) error {
	list := make([]resultJSON, 0, len(results))
	for _, r := range results {
		j := resultJSON{
			DrvPath: dir.Join(r.Path.Path), Outputs: make(map[string]string),
			Status: r.Status.String(), Success: r.Status.Success(), Message: r.Message, TimesBuilt: r.TimesBuilt,
			KeptBuildDir: r.KeptBuildDir, KeptSandbox: r.KeptSandbox, NonDeterministic: r.NonDeterministic, Hint: hint(&r),
			Differences: differencesJSON(dir, r.Differences),
			Group:       groupOf(r.Resources), Failure: failureOf(&r),
		}
		for _, cause := range r.Causes {
			j.Causes = append(j.Causes, cause.String())
		}
		for name, o := range r.Outputs {
			j.Outputs[string(name)] = dir.Join(o.OutPath)
		}
		if !r.Start.IsZero() {
			j.StartTime, j.StopTime = r.Start.Unix(), r.Stop.Unix()
		}
		if r.Resources != nil {
			j.UserTime, j.SystemTime, j.MaxRSS = r.Resources.UserTime.Seconds(), r.Resources.SystemTime.Seconds(), r.Resources.MaxRSS
		}
		j.Isolation = isolationOf(r.Isolation)
		for _, n := range r.Nested {
			j.Nested = append(j.Nested, nestedOf(dir, &n))
		}
		list = append(list, j)
	}
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(list)
}

// isolationOf is nil for a build whose builder did not run.
func isolationOf(i *nix.Isolation) *isolationJSON {
	if i == nil {
		return nil
	}
	j := &isolationJSON{Level: i.Level}
	for _, l := range i.Layers {
		j.Layers = append(j.Layers, layerJSON(l))
	}
	return j
}

func nestedOf(dir nix.StoreDir, n *nix.NestedBuild) nestedJSON {
	seconds := func(t time.Time) float64 { return float64(t.UnixMilli()) / 1000 }
	j := nestedJSON{DrvPath: dir.Join(n.Drv), Status: n.Status.String(), StartTime: seconds(n.Start), StopTime: seconds(n.Stop), Isolation: isolationOf(n.Isolation)}
	if n.Resources != nil {
		j.UserTime, j.SystemTime, j.MaxRSS = n.Resources.UserTime.Seconds(), n.Resources.SystemTime.Seconds(), n.Resources.MaxRSS
	}
	return j
}

func differencesJSON(dir nix.StoreDir, differences []nix.OutputDifference) (list []differenceJSON) {
	for _, d := range differences {
		j := differenceJSON{Output: string(d.Output), Path: dir.Join(d.Path), Total: d.Total, Files: []fileDifferenceJSON{}}
		if d.Kept != "" {
			j.Kept = dir.Join(d.Kept)
		}
		for _, f := range d.Files {
			file := fileDifferenceJSON{Path: f.Path, Kind: f.Kind, Text: f.Text}
			if f.Kind == "content" {
				file.Offset = &f.Offset
			}
			j.Files = append(j.Files, file)
		}
		list = append(list, j)
	}
	return list
}
