package hook

import (
	"encoding/binary"
	"maps"
	"slices"
)

// What is told to a build hook is in the form of Nix's protocols: integers are 64
// bits, little-endian; strings have their length before them, and zeros after
// them up to a multiple of 8 bytes; a list has its length before it.

func appendInt(b []byte, n uint64) []byte { return binary.LittleEndian.AppendUint64(b, n) }

func appendString(b []byte, s string) []byte {
	b = append(appendInt(b, uint64(len(s))), s...)
	return append(b, make([]byte, -len(s)&7)...)
}

// appendSet appends a set of strings: sorted, each of them once.
func appendSet(b []byte, set []string) []byte {
	set = slices.Compact(slices.Sorted(slices.Values(set)))
	b = appendInt(b, uint64(len(set)))
	for _, s := range set {
		b = appendString(b, s)
	}
	return b
}

// appendSettings appends what a build hook is told first.
func appendSettings(b []byte, settings map[string]string) []byte {
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		b = appendString(appendString(appendInt(b, 1), name), settings[name])
	}
	return appendInt(b, 0)
}

// appendTry appends a question.
func appendTry(b []byte, r *Request) []byte {
	willing := uint64(0)
	if r.Willing {
		willing = 1
	}
	b = appendInt(appendString(b, "try"), willing)
	b = appendString(appendString(b, r.System), r.Drv)
	return appendSet(b, r.Features)
}

// appendWork appends what a hook is told once it has accepted.
func appendWork(b []byte, r *Request) []byte {
	return appendSet(appendSet(b, r.Inputs), r.Outputs)
}
