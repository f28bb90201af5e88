package cgroup

import (
	"errors"
	"fmt"
	"time"
)

// Limits are upper bounds for everything in a group together. A zero field limits
// nothing.
type Limits struct {
	Memory    int64  `json:"memory,omitzero"`    // bytes, swap included where the kernel counts it
	Processes int64  `json:"processes,omitzero"` // processes and threads at a time
	CPUWeight uint64 `json:"cpuWeight,omitzero"` // share of processors that others want too: 1 to 10000, 100 is what others have
	CPUQuota  uint64 `json:"cpuQuota,omitzero"`  // hundredths of one processor
}

// The bounds of Limits. MinMemory lets a shell start.
const (
	MinMemory    = 1 << 20
	MaxCPUWeight = 10000
	MaxCPUQuota  = 1 << 20
)

// Validate says what cannot be meant.
func (l Limits) Validate() error {
	switch {
	case l.Memory < 0 || l.Memory > 0 && l.Memory < MinMemory:
		return fmt.Errorf("memory limit of %d bytes: it has to be at least %d", l.Memory, MinMemory)
	case l.Processes < 0:
		return fmt.Errorf("limit of %d processes: it has to be at least 1", l.Processes)
	case l.CPUWeight > MaxCPUWeight:
		return fmt.Errorf("CPU weight %d: it has to be between 1 and %d", l.CPUWeight, MaxCPUWeight)
	case l.CPUQuota > MaxCPUQuota:
		return fmt.Errorf("CPU quota of %d hundredths of a processor: it may be %d at most", l.CPUQuota, MaxCPUQuota)
	}
	return nil
}

// Resource is what a limit is about.
type Resource string

// The resources.
const (
	Memory    Resource = "memory"
	Processes Resource = "processes"
	CPU       Resource = "cpu"
)

// Wanted lists the resources that have a limit.
func (l Limits) Wanted() (list []Resource) {
	if l.Memory > 0 {
		list = append(list, Memory)
	}
	if l.Processes > 0 {
		list = append(list, Processes)
	}
	if l.CPUWeight > 0 || l.CPUQuota > 0 {
		list = append(list, CPU)
	}
	return list
}

// Lack is a limit that is not enforced.
type Lack struct {
	Resource Resource
	Why      string
}

// ErrNotEnforced is the error of those who insist on limits.
var ErrNotEnforced = errors.New("limit is not enforced")

// Usage is what the programs of a group have taken so far. What the machine does not
// count is zero.
type Usage struct {
	UserTime, SystemTime  time.Duration
	Memory, PeakMemory    int64 // bytes
	Processes             int64 // at the moment
	ReadBytes, WriteBytes int64 // of block devices
	// OutOfMemory is how many processes the kernel has killed because of the memory
	// limit, or because the machine had no more.
	OutOfMemory int64
	// Refused is how many processes and threads could not be made because of the limit.
	Refused int64
	// Stalls say how long processes could not go on for want of something.
	Stalls Stalls
}

// Stalls are the totals of the kernel's pressure stall information (PSI): how long
// at least one process waited for the resource.
type Stalls struct {
	CPU, Memory, IO time.Duration
}
