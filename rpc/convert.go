package rpc

import (
	"context"
	"maps"
	"slices"
	"time"

	kilnv1 "github.com/kilnbuild/kiln/api/kiln/v1"
	"github.com/kilnbuild/kiln/nix"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// timestamp is absent for the zero time.
func timestamp(t time.Time) *timestamppb.Timestamp {
	if t.IsZero() {
		return nil
	}
	return timestamppb.New(t)
}

func timeOf(t *timestamppb.Timestamp) time.Time {
	if t == nil {
		return time.Time{}
	}
	return t.AsTime()
}

// result turns a result into a message. Of outputs it asks the store, unless that is nil.
func (s *Server) result(ctx context.Context, st Store, r *nix.BuildResult) *kilnv1.Result {
	dir := s.cfg.StoreDir
	m := &kilnv1.Result{
		StorePath: dir.Join(r.Path.Path), Status: r.Status.String(), Success: r.Status.Success(), Message: valid(r.Message),
		Started: timestamp(r.Start), Ended: timestamp(r.Stop), TimesBuilt: uint32(r.TimesBuilt),
		Resources: resources(r.Resources), Isolation: isolation(r.Isolation), KeptBuildDir: r.KeptBuildDir, KeptSandbox: r.KeptSandbox,
	}
	if f := r.Why(); f.Kind != nix.FailureNone {
		m.Failure = failure(f)
	}
	for _, name := range slices.Sorted(maps.Keys(r.Outputs)) {
		o := &kilnv1.Output{Name: string(name), StorePath: dir.Join(r.Outputs[name].OutPath)}
		if st != nil {
			// It may have been collected meanwhile; what is known is enough then.
			if info, err := st.PathInfo(ctx, r.Outputs[name].OutPath); err == nil {
				o.NarHash, o.NarSize, o.References = info.NARHash.SRI(), info.NARSize, joined(dir, info.References)
			}
		}
		m.Outputs = append(m.Outputs, o)
	}
	for _, n := range r.Nested {
		m.Nested = append(m.Nested, &kilnv1.NestedBuild{
			StorePath: dir.Join(n.Drv), Status: n.Status.String(), Started: timestamp(n.Start), Ended: timestamp(n.Stop),
			Resources: resources(n.Resources), Isolation: isolation(n.Isolation),
		})
	}
	for _, d := range r.Differences {
		diff := &kilnv1.Difference{Output: string(d.Output), StorePath: dir.Join(d.Path), Total: int64(d.Total)}
		if d.Kept != "" {
			diff.Kept = dir.Join(d.Kept)
		}
		for _, f := range d.Files {
			diff.Files = append(diff.Files, valid(f.Text))
		}
		m.Differences = append(m.Differences, diff)
	}
	for _, c := range r.Causes {
		m.Causes = append(m.Causes, c.String())
	}
	return m
}

// resultOf is the other way, for the client. What has no place in nix.BuildResult is lost.
func resultOf(dir nix.StoreDir, p nix.DerivedPath, m *kilnv1.Result) nix.BuildResult {
	r := nix.BuildResult{
		Path: p, Message: m.Message, Start: timeOf(m.Started), Stop: timeOf(m.Ended), TimesBuilt: int(m.TimesBuilt),
		Resources: resourcesOf(m.Resources), Isolation: isolationOf(m.Isolation), KeptBuildDir: m.KeptBuildDir, KeptSandbox: m.KeptSandbox,
	}
	var ok bool
	if r.Status, ok = nix.ParseBuildStatus(m.Status); !ok {
		r.Status = nix.StatusMiscFailure // of a newer executor
	}
	r.NonDeterministic = r.Status == nix.StatusNotDeterministic
	if f := m.Failure; f != nil {
		r.Failure = &nix.Failure{Kind: nix.FailureKind(f.Kind), Code: int(f.Code), Limit: f.Limit, Peak: f.Peak}
	}
	if len(m.Outputs) > 0 {
		r.Outputs = make(map[nix.OutputName]nix.Realisation, len(m.Outputs))
	}
	for _, o := range m.Outputs {
		if path, err := dir.Parse(o.StorePath); err == nil {
			name := nix.OutputName(o.Name)
			r.Outputs[name] = nix.Realisation{ID: nix.DrvOutput{Drv: p.Path, Output: name}, OutPath: path}
		}
	}
	for _, n := range m.Nested {
		nested := nix.NestedBuild{Start: timeOf(n.Started), Stop: timeOf(n.Ended), Resources: resourcesOf(n.Resources), Isolation: isolationOf(n.Isolation)}
		nested.Drv, _ = dir.Parse(n.StorePath)
		nested.Status, _ = nix.ParseBuildStatus(n.Status)
		r.Nested = append(r.Nested, nested)
	}
	for _, d := range m.Differences {
		diff := nix.OutputDifference{Output: nix.OutputName(d.Output), Total: int(d.Total)}
		diff.Path, _ = dir.Parse(d.StorePath)
		if d.Kept != "" {
			diff.Kept, _ = dir.Parse(d.Kept)
		}
		for _, text := range d.Files {
			diff.Files = append(diff.Files, nix.FileDifference{Text: text})
		}
		r.Differences = append(r.Differences, diff)
	}
	for _, c := range m.Causes {
		if s, ok := nix.ParseBuildStatus(c); ok {
			r.Causes = append(r.Causes, s)
		}
	}
	return r
}

func joined(dir nix.StoreDir, paths []nix.StorePath) (list []string) {
	for _, p := range paths {
		list = append(list, dir.Join(p))
	}
	return list
}

// The kinds of failures have the same numbers here and there; a test holds them to it.
func failure(f nix.Failure) *kilnv1.Failure {
	return &kilnv1.Failure{Kind: kilnv1.FailureKind(f.Kind), Code: int32(f.Code), Limit: f.Limit, Peak: f.Peak, RetryHelps: f.RetryHelps(), AnotherMachineHelps: f.AnotherMachineHelps()}
}

func resources(r *nix.Resources) *kilnv1.Resources {
	if r == nil {
		return nil
	}
	m := &kilnv1.Resources{UserTime: durationpb.New(r.UserTime), SystemTime: durationpb.New(r.SystemTime), MaxRssBytes: r.MaxRSS}
	if g := r.Group; g != nil {
		m.MemoryBytes, m.PeakMemoryBytes, m.Processes, m.ReadBytes, m.WriteBytes = g.Memory, g.PeakMemory, g.Processes, g.ReadBytes, g.WriteBytes
		m.CpuStall, m.MemoryStall, m.IoStall = durationpb.New(g.CPUStall), durationpb.New(g.MemoryStall), durationpb.New(g.IOStall)
	}
	return m
}

func resourcesOf(m *kilnv1.Resources) *nix.Resources {
	if m == nil {
		return nil
	}
	r := &nix.Resources{UserTime: m.UserTime.AsDuration(), SystemTime: m.SystemTime.AsDuration(), MaxRSS: m.MaxRssBytes}
	if m.CpuStall != nil {
		r.Group = &nix.GroupResources{
			Memory: m.MemoryBytes, PeakMemory: m.PeakMemoryBytes, Processes: m.Processes, ReadBytes: m.ReadBytes, WriteBytes: m.WriteBytes,
			CPUStall: m.CpuStall.AsDuration(), MemoryStall: m.MemoryStall.AsDuration(), IOStall: m.IoStall.AsDuration(),
		}
	}
	return r
}

var levels = map[string]kilnv1.IsolationLevel{
	"none": kilnv1.IsolationLevel_ISOLATION_LEVEL_NONE, "partial": kilnv1.IsolationLevel_ISOLATION_LEVEL_PARTIAL, "full": kilnv1.IsolationLevel_ISOLATION_LEVEL_FULL,
}

func levelName(l kilnv1.IsolationLevel) string {
	for name, level := range levels {
		if level == l {
			return name
		}
	}
	return ""
}

func isolation(i *nix.Isolation) *kilnv1.Isolation {
	if i == nil {
		return nil
	}
	m := &kilnv1.Isolation{Level: levels[i.Level]}
	for _, l := range i.Layers {
		m.Layers = append(m.Layers, &kilnv1.IsolationLayer{Name: l.Name, Asked: l.Asked, InForce: l.InForce, Why: l.Why})
	}
	return m
}

func isolationOf(m *kilnv1.Isolation) *nix.Isolation {
	if m == nil {
		return nil
	}
	i := &nix.Isolation{Level: levelName(m.Level)}
	for _, l := range m.Layers {
		i.Layers = append(i.Layers, nix.IsolationLayer{Name: l.Name, Asked: l.Asked, InForce: l.InForce, Why: l.Why})
	}
	return i
}

// LimitsMessage turns limits into a message.
func LimitsMessage(l nix.Limits) *kilnv1.Limits { return limits(l) }

func limits(l nix.Limits) *kilnv1.Limits {
	return &kilnv1.Limits{
		MemoryBytes: l.Memory, Processes: l.Processes, CpuWeight: uint32(l.CPUWeight), CpuQuota: uint32(l.CPUQuota),
		Timeout: durationpb.New(l.Timeout), MaxSilent: durationpb.New(l.MaxSilent),
		LogBytes: l.Log, OutputBytes: l.Output, BuildDirBytes: l.BuildDir, Require: l.Require,
	}
}

func limitsOf(m *kilnv1.Limits) nix.Limits {
	if m == nil {
		return nix.Limits{}
	}
	return nix.Limits{
		Memory: m.MemoryBytes, Processes: m.Processes, CPUWeight: uint64(m.CpuWeight), CPUQuota: uint64(m.CpuQuota),
		Timeout: m.Timeout.AsDuration(), MaxSilent: m.MaxSilent.AsDuration(),
		Log: m.LogBytes, Output: m.OutputBytes, BuildDir: m.BuildDirBytes, Require: m.Require,
	}
}
