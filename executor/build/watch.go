package build

import (
	"context"
	"fmt"
	"time"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/sandbox"
	"github.com/kilnbuild/kiln/sandbox/cgroup"
)

// A watch looks at a builder while it runs, until ctx ends. A *limitError says that the
// builder is to be ended.
type watch func(ctx context.Context, p *sandbox.Process) error

// How often watches look, and how many looks in a row have to find that processes were
// refused before a builder counts as one that does nothing but try: some get along with
// fewer.
const (
	sampleInterval = time.Second
	refusedSamples = 3
)

// watches are those that the attempt's limits need, and one that tells what the builder
// uses where that is counted.
func (r *run) watches(lim nix.Limits) []watch {
	list := []watch{func(ctx context.Context, p *sandbox.Process) error { return r.watchGroup(ctx, p, lim) }}
	if lim.Output > 0 || lim.BuildDir > 0 {
		list = append(list, func(ctx context.Context, _ *sandbox.Process) error { return r.watchSizes(ctx, lim) })
	}
	return list
}

// watchGroup tells what the builder uses, and ends one that is at its limit of processes
// and goes on trying.
func (r *run) watchGroup(ctx context.Context, p *sandbox.Process, lim nix.Limits) error {
	if _, ok := p.Usage(); !ok {
		return nil
	}
	ticker := time.NewTicker(sampleInterval)
	defer ticker.Stop()
	refused, inARow := int64(0), 0
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		usage, _ := p.Usage()
		resources := &nix.Resources{UserTime: usage.UserTime, SystemTime: usage.SystemTime, Group: groupResources(&usage)}
		r.attempt.Log.Event(nix.Event{Kind: nix.EventResources, Path: r.attempt.DrvPath, Resources: resources})
		if usage.Refused > refused {
			inARow++
		} else {
			inARow = 0
		}
		refused = usage.Refused
		if lim.Processes > 0 && inARow >= refusedSamples {
			return &limitError{nix.StatusPermanentFailure, fmt.Sprintf("killed because it went on making processes beyond its limit of %d", lim.Processes),
				nix.Failure{Kind: nix.FailureProcesses, Limit: lim.Processes, Peak: lim.Processes}}
		}
	}
}

func groupResources(u *cgroup.Usage) *nix.GroupResources {
	return &nix.GroupResources{
		Memory: u.Memory, PeakMemory: u.PeakMemory, Processes: u.Processes, ReadBytes: u.ReadBytes, WriteBytes: u.WriteBytes,
		CPUStall: u.Stalls.CPU, MemoryStall: u.Stalls.Memory, IOStall: u.Stalls.IO,
	}
}

// The watch of sizes rests for many times as long as it looked: it shall not take more
// than a small part of a processor, however large the trees are.
const (
	sizeInterval = 250 * time.Millisecond
	sizeRest     = 20
)

// watchSizes ends a builder that has written too much.
func (r *run) watchSizes(ctx context.Context, lim nix.Limits) error {
	pause := sizeInterval
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
		begun := time.Now()
		if err := r.checkSizes(ctx, lim); err != nil {
			return err
		}
		pause = max(sizeInterval, sizeRest*time.Since(begun))
	}
}
