package conf

import (
	"cmp"
	"iter"
	"slices"
	"strings"
)

// A Definition is what is known of a setting before anybody gives it a value.
// Definitions are shared and must not be changed.
type Definition struct {
	Name    string
	Aliases []string // older names, which mean the same
	Type    Type
	Choices []string // the values of a TypeChoice
	// Default is the value of a setting that nobody gave, in the notation of
	// nix.conf. Where it depends on the machine, DefaultText says in words how,
	// and Default is empty.
	Default     string
	DefaultText string
	// Doc is a paragraph for people, in Markdown, without line breaks.
	Doc    string
	Status Status
	// Wire says how a client of the worker protocol tells the setting to a
	// daemon; Untrusted what the daemon makes of it if it doesn't trust the client.
	Wire      Wire
	Untrusted Permission
	// Feature is the experimental feature without which the setting is left
	// alone; empty for most.
	Feature Feature
	// Own marks the settings that Nix doesn't have.
	Own bool

	defaultFor func(Environment) string // for DefaultText
	field      func(*Settings) value    // where Settings has it; nil if nobody asks
}

// A Type says how the text of a setting is read.
type Type int

const (
	TypeString       Type = iota // any text
	TypeBool                     // true, yes, 1, false, no, 0
	TypeInt                      // a number of things below 2^32; K, M, G, T multiply by powers of 1024
	TypeSize                     // a number of bytes; suffixes as above
	TypeSeconds                  // a number of seconds; suffixes as above
	TypeMilliseconds             // a number of milliseconds; suffixes as above
	TypeJobs                     // a number, or "auto" for one per processor
	TypeList                     // words, in order
	TypeSet                      // words, sorted, each once
	TypeMap                      // name=value words; words without "=" are dropped
	TypePath                     // an absolute path
	TypeOptionalPath             // an absolute path or nothing
	TypeChoice                   // one of Choices
	TypeSandboxPaths             // target, target=source; a trailing "?" makes it optional
	TypeFeatures                 // names of experimental features
	TypeStore                    // a store URI
	TypeJSON                     // a JSON text
)

var typeNames = [...]string{
	TypeString: "string", TypeBool: "boolean", TypeInt: "integer", TypeSize: "size in bytes",
	TypeSeconds: "seconds", TypeMilliseconds: "milliseconds", TypeJobs: "integer or auto",
	TypeList: "list", TypeSet: "set", TypeMap: "map", TypePath: "path", TypeOptionalPath: "path or nothing",
	TypeChoice: "choice", TypeSandboxPaths: "set of paths", TypeFeatures: "set of features",
	TypeStore: "store URI", TypeJSON: "JSON",
}

// String names the type for documentation.
func (t Type) String() string { return typeNames[t] }

// Extensible tells whether the setting can be given with "extra-" before its
// name, which adds to the value instead of replacing it.
func (t Type) Extensible() bool {
	switch t {
	case TypeList, TypeSet, TypeMap, TypeSandboxPaths, TypeFeatures:
		return true
	}
	return false
}

// Status says what kiln makes of a setting.
type Status int

const (
	// Honoured settings do here what they do in Nix.
	Honoured Status = iota
	// Ignored settings are about parts of Nix that kiln doesn't have, such as
	// the language; leaving them out changes no build. Their values are checked,
	// but a bad one is only worth a warning.
	Ignored
	// Unsupported settings ask for something that kiln doesn't do. Giving them a
	// value that is neither the default nor empty is worth a warning.
	Unsupported
)

var statusNames = [...]string{Honoured: "honoured", Ignored: "ignored", Unsupported: "unsupported"}

// String names the status for documentation.
func (s Status) String() string { return statusNames[s] }

// Wire is the way of a setting from a client to a daemon (worker protocol,
// SetOptions).
type Wire int

const (
	WireNever    Wire = iota // it stays where it was given
	WireField                // it has a fixed place in the message
	WireOverride             // it goes with name and value, if a user gave it
)

// Permission is what a daemon makes of an override of a client that it doesn't
// trust.
type Permission int

const (
	Refused  Permission = iota // not applied; the client is told
	Allowed                    // applied
	EmptyOK                    // applied if the value is empty, else refused
	Filtered                   // only what the daemon's own settings name as well
)

// Definitions lists every setting, sorted by name.
func Definitions() iter.Seq[*Definition] {
	return func(yield func(*Definition) bool) {
		for i := range definitions {
			if !yield(&definitions[i]) {
				return
			}
		}
	}
}

// Lookup finds a setting by its name or an alias. A name with "extra-" before it
// is not one.
func Lookup(name string) (*Definition, bool) {
	i, ok := index[name]
	if !ok {
		return nil, false
	}
	return &definitions[i], true
}

// find resolves a name as it stands before "=": the setting's number and whether
// the value adds to the old one.
func find(name string) (i int, add, ok bool) {
	if i, ok = index[name]; ok {
		return i, false, true
	}
	if base, extra := strings.CutPrefix(name, "extra-"); extra {
		if i, ok = index[base]; ok && definitions[i].Type.Extensible() {
			return i, true, true
		}
	}
	return 0, false, false
}

var (
	definitions = sorted(executorSettings, storeSettings, transferSettings, unusedSettings)
	index       = byName(definitions)
	featuresAt  = index["experimental-features"]
)

func sorted(tables ...[]Definition) []Definition {
	all := slices.Concat(tables...)
	slices.SortFunc(all, func(a, b Definition) int { return cmp.Compare(a.Name, b.Name) })
	return all
}

func byName(all []Definition) map[string]int {
	m := make(map[string]int, len(all)*5/4)
	for i, d := range all {
		m[d.Name] = i
		for _, a := range d.Aliases {
			m[a] = i
		}
	}
	return m
}
