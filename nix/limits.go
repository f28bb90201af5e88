package nix

import (
	"cmp"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Limits are upper bounds for one builder with everything that it starts. A zero field
// limits nothing. They can be compared with ==.
type Limits struct {
	Memory    int64         // bytes, swap included where the machine counts it
	Processes int64         // processes and threads at a time
	CPUWeight uint64        // share of contended processors: 1 to 10000, 100 is what others have
	CPUQuota  uint64        // hundredths of one processor
	Timeout   time.Duration // since its start
	MaxSilent time.Duration // since it last printed something
	Log       int64         // bytes that it prints
	Output    int64         // bytes of all outputs together, as files
	BuildDir  int64         // bytes of the build directory and all else that it writes but outputs
	// Require refuses to build where the machine does not enforce one of these.
	Require bool
}

// The bounds of Limits.
const (
	MinMemoryLimit = 1 << 20 // bytes
	MaxCPUWeight   = 10000
	MaxCPUQuota    = 1 << 20
)

// Tightest gives, of each of two limits, the one that allows less.
func (l Limits) Tightest(o Limits) Limits {
	return Limits{
		Memory: tighter(l.Memory, o.Memory), Processes: tighter(l.Processes, o.Processes),
		CPUWeight: tighter(l.CPUWeight, o.CPUWeight), CPUQuota: tighter(l.CPUQuota, o.CPUQuota),
		Timeout: tighter(l.Timeout, o.Timeout), MaxSilent: tighter(l.MaxSilent, o.MaxSilent),
		Log: tighter(l.Log, o.Log), Output: tighter(l.Output, o.Output), BuildDir: tighter(l.BuildDir, o.BuildDir),
		Require: l.Require || o.Require,
	}
}

func tighter[T cmp.Ordered](a, b T) T {
	var none T
	if a == none || b != none && b < a {
		return b
	}
	return a
}

// LimitError says which limit cannot be meant.
type LimitError struct {
	Name string // of the limit, as ParseLimits has it
	Text string
}

func (e *LimitError) Error() string { return fmt.Sprintf("limit '%s': %s", e.Name, e.Text) }

// Validate says what cannot be meant: a *LimitError.
func (l Limits) Validate() error {
	for _, f := range limitFields {
		if n := f.get(&l); n < 0 {
			return &LimitError{f.name, "it is negative"}
		}
	}
	switch {
	case l.Memory > 0 && l.Memory < MinMemoryLimit:
		return &LimitError{"memory", fmt.Sprintf("%d bytes; no builder starts with less than %d", l.Memory, MinMemoryLimit)}
	case l.CPUWeight > MaxCPUWeight:
		return &LimitError{"cpu-weight", fmt.Sprintf("%d; it has to be between 1 and %d", l.CPUWeight, MaxCPUWeight)}
	case l.CPUQuota > MaxCPUQuota:
		return &LimitError{"cpu-quota", fmt.Sprintf("%d hundredths of a processor; %d are the most", l.CPUQuota, MaxCPUQuota)}
	}
	return nil
}

type limitField struct {
	name string
	get  func(*Limits) int64
	set  func(*Limits, int64)
}

var limitFields = []limitField{
	{"memory", func(l *Limits) int64 { return l.Memory }, func(l *Limits, n int64) { l.Memory = n }},
	{"processes", func(l *Limits) int64 { return l.Processes }, func(l *Limits, n int64) { l.Processes = n }},
	{"cpu-weight", func(l *Limits) int64 { return int64(l.CPUWeight) }, func(l *Limits, n int64) { l.CPUWeight = uint64(n) }},
	{"cpu-quota", func(l *Limits) int64 { return int64(l.CPUQuota) }, func(l *Limits, n int64) { l.CPUQuota = uint64(n) }},
	{"timeout", func(l *Limits) int64 { return int64(l.Timeout) }, func(l *Limits, n int64) { l.Timeout = time.Duration(n) * time.Second }},
	{"silence", func(l *Limits) int64 { return int64(l.MaxSilent) }, func(l *Limits, n int64) { l.MaxSilent = time.Duration(n) * time.Second }},
	{"log", func(l *Limits) int64 { return l.Log }, func(l *Limits, n int64) { l.Log = n }},
	{"output", func(l *Limits) int64 { return l.Output }, func(l *Limits, n int64) { l.Output = n }},
	{"build-dir", func(l *Limits) int64 { return l.BuildDir }, func(l *Limits, n int64) { l.BuildDir = n }},
}

// maxLimitSeconds keeps durations within what they can hold.
const maxLimitSeconds = 1 << 32

// ParseLimits reads limits as a derivation states them: words of a name, "=" and a
// number, which may have K, M, G or T behind it for powers of 1024; times are seconds.
// The names are memory, processes, cpu-weight, cpu-quota, timeout, silence, log, output
// and build-dir. A limit that is given twice is an error, and so is 0.
func ParseLimits(text string) (l Limits, err error) {
	seen := make(map[string]bool)
	for word := range strings.FieldsSeq(text) {
		name, value, _ := strings.Cut(word, "=")
		i := fieldNamed(name)
		switch {
		case i < 0:
			return Limits{}, &LimitError{name, "there is no such limit"}
		case seen[name]:
			return Limits{}, &LimitError{name, "it is given twice"}
		}
		seen[name] = true
		n, err := parseAmount(value)
		if err == nil && (name == "timeout" || name == "silence") && n > maxLimitSeconds {
			err = errors.New("it is too large")
		}
		if err != nil {
			return Limits{}, &LimitError{name, fmt.Sprintf("%q: %v", value, err)}
		}
		limitFields[i].set(&l, n)
	}
	return l, l.Validate()
}

func fieldNamed(name string) int {
	for i, f := range limitFields {
		if f.name == name {
			return i
		}
	}
	return -1
}

// parseAmount reads a positive number with a suffix.
func parseAmount(text string) (int64, error) {
	digits, shift := text, 0
	if i := strings.IndexAny(text, "KMGT"); i >= 0 && i == len(text)-1 {
		digits, shift = text[:i], 10*(1+strings.IndexByte("KMGT", text[i]))
	}
	n, err := strconv.ParseUint(digits, 10, 63)
	switch {
	case err != nil:
		return 0, errors.New("it is not a number, with K, M, G or T behind it as may be")
	case n == 0:
		return 0, errors.New("it has to be positive")
	case n > 1<<62>>shift:
		return 0, errors.New("it is too large")
	}
	return int64(n << shift), nil
}
