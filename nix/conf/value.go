package conf

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"
)

// A value is the typed place of one setting. It reads and prints the notation of
// nix.conf.
type value interface {
	// set reads text; with add, it adds to what is there. After an error the
	// place is as it was. The error names the setting.
	set(d *Definition, text string, add bool) error
	text() string
	// detach gives the place its own copy of what it points to.
	detach()
}

// newValue makes a place for a setting that has no field in Settings.
func newValue(t Type) value {
	switch t {
	case TypeBool:
		return boolean{new(bool)}
	case TypeInt, TypeSize, TypeJobs:
		return number[uint64]{new(uint64)}
	case TypeSeconds:
		return duration{new(time.Duration), time.Second}
	case TypeMilliseconds:
		return duration{new(time.Duration), time.Millisecond}
	case TypeList:
		return list{new([]string)}
	case TypeSet:
		return set{new(StringSet)}
	case TypeMap:
		return dict{new(map[string]string)}
	case TypePath, TypeOptionalPath:
		return file{new(string)}
	case TypeChoice:
		return choice[string]{new(string)}
	case TypeSandboxPaths:
		return mounts{new([]SandboxPath)}
	case TypeFeatures:
		return features{new(Features)}
	default:
		return plain{new(string)}
	}
}

// words splits text as Nix does: at spaces, tabs and line ends only.
func words(text string) []string {
	return strings.FieldsFunc(text, func(r rune) bool { return r == ' ' || r == '\t' || r == '\n' || r == '\r' })
}

type plain struct{ p *string }

func (v plain) set(d *Definition, text string, _ bool) error {
	switch d.Type {
	case TypeStore:
		if _, err := ParseStoreURI(text, "/"); err != nil {
			return fmt.Errorf("setting '%s' has invalid value: %w", d.Name, err)
		}
	case TypeJSON:
		var syntax json.RawMessage
		if err := json.Unmarshal([]byte(text), &syntax); err != nil {
			return fmt.Errorf("parsing setting '%s': %w", d.Name, err)
		}
	}
	*v.p = text
	return nil
}
func (v plain) text() string { return *v.p }
func (v plain) detach()      {}

type boolean struct{ p *bool }

func (v boolean) set(d *Definition, text string, _ bool) error {
	switch text {
	case "true", "yes", "1":
		*v.p = true
	case "false", "no", "0":
		*v.p = false
	default:
		return fmt.Errorf("Boolean setting '%s' has invalid value '%s'", d.Name, text)
	}
	return nil
}
func (v boolean) text() string { return strconv.FormatBool(*v.p) }
func (v boolean) detach()      {}

// A Size is a number of bytes.
type Size uint64

type number[T ~int | ~uint32 | ~uint64] struct{ p *T }

func (v number[T]) set(d *Definition, text string, _ bool) error {
	limit := uint64(math.MaxUint32)
	if d.Type == TypeSize {
		limit = math.MaxUint64
	}
	n, err := parseNumber(text)
	if err != nil || n > limit {
		return fmt.Errorf("setting '%s' has invalid value '%s'", d.Name, text)
	}
	*v.p = T(n)
	return nil
}
func (v number[T]) text() string { return strconv.FormatUint(uint64(*v.p), 10) }
func (v number[T]) detach()      {}

var errNumber = errors.New("not a number")

// parseNumber reads digits with an optional "+" before them and an optional
// binary unit behind. Nix wraps around where the product is too large; here it
// is an error, as are the negative durations that Nix takes.
func parseNumber(text string) (uint64, error) {
	var shift uint
	if n := len(text); n > 0 {
		switch text[n-1] {
		case 'k', 'K':
			shift = 10
		case 'm', 'M':
			shift = 20
		case 'g', 'G':
			shift = 30
		case 't', 'T':
			shift = 40
		}
		if shift > 0 {
			text = text[:n-1]
		}
	}
	n, err := strconv.ParseUint(strings.TrimPrefix(text, "+"), 10, 64)
	if err != nil || n > math.MaxUint64>>shift {
		return 0, errNumber
	}
	return n << shift, nil
}

type jobs struct {
	p    *int
	auto int
}

func (v jobs) set(d *Definition, text string, _ bool) error {
	if text == "auto" {
		*v.p = v.auto
		return nil
	}
	n, err := strconv.ParseUint(strings.TrimPrefix(text, "+"), 10, 32)
	if err != nil {
		return fmt.Errorf("configuration setting '%s' should be 'auto' or an integer", d.Name)
	}
	*v.p = int(n)
	return nil
}
func (v jobs) text() string { return strconv.Itoa(*v.p) }
func (v jobs) detach()      {}

// A duration is kept in whole units; what a time.Duration cannot hold becomes
// the longest that it can, 292 years.
type duration struct {
	p    *time.Duration
	unit time.Duration
}

func (v duration) set(d *Definition, text string, _ bool) error {
	n, err := parseNumber(text)
	if err != nil {
		return fmt.Errorf("setting '%s' has invalid value '%s'", d.Name, text)
	}
	longest := uint64(math.MaxInt64 / v.unit)
	*v.p = time.Duration(min(n, longest)) * v.unit
	return nil
}
func (v duration) text() string { return strconv.FormatInt(int64(*v.p/v.unit), 10) }
func (v duration) detach()      {}

type list struct{ p *[]string }

func (v list) set(_ *Definition, text string, add bool) error {
	w := words(text)
	if add {
		w = slices.Concat(*v.p, w)
	}
	*v.p = w
	return nil
}
func (v list) text() string { return strings.Join(*v.p, " ") }
func (v list) detach()      { *v.p = slices.Clone(*v.p) }

// A StringSet is a set of words: sorted, each once.
type StringSet []string

// Has tells whether w is in the set.
func (s StringSet) Has(w string) bool {
	_, ok := slices.BinarySearch(s, w)
	return ok
}

func newStringSet(w []string) StringSet {
	slices.Sort(w)
	return slices.Compact(w)
}

type set struct{ p *StringSet }

func (v set) set(_ *Definition, text string, add bool) error {
	w := words(text)
	if add {
		w = append(w, *v.p...)
	}
	*v.p = newStringSet(w)
	return nil
}
func (v set) text() string { return strings.Join(*v.p, " ") }
func (v set) detach()      { *v.p = slices.Clone(*v.p) }

type dict struct{ p *map[string]string }

// set keeps the first value that a name was given, as Nix does both within one
// line and when adding.
func (v dict) set(_ *Definition, text string, add bool) error {
	m := map[string]string{}
	if add {
		maps.Copy(m, *v.p)
	}
	for _, w := range words(text) {
		name, val, ok := strings.Cut(w, "=")
		if _, there := m[name]; ok && !there {
			m[name] = val
		}
	}
	*v.p = m
	return nil
}

func (v dict) text() string {
	w := make([]string, 0, len(*v.p))
	for _, name := range slices.Sorted(maps.Keys(*v.p)) {
		w = append(w, name+"="+(*v.p)[name])
	}
	return strings.Join(w, " ")
}
func (v dict) detach() { *v.p = maps.Clone(*v.p) }

type file struct{ p *string }

func (v file) set(d *Definition, text string, _ bool) error {
	switch {
	case text == "" && d.Type == TypeOptionalPath:
		*v.p = ""
		return nil
	case text == "":
		return fmt.Errorf("setting '%s' is a path and paths cannot be empty", d.Name)
	case !path.IsAbs(text):
		return fmt.Errorf("setting '%s' has invalid value '%s': not an absolute path", d.Name, text)
	}
	*v.p = path.Clean(text)
	return nil
}
func (v file) text() string { return *v.p }
func (v file) detach()      {}

type choice[T ~string] struct{ p *T }

func (v choice[T]) set(d *Definition, text string, _ bool) error {
	if !slices.Contains(d.Choices, text) {
		last := len(d.Choices) - 1
		return fmt.Errorf("option '%s' has invalid value '%s' (expected '%s', or '%s')", d.Name, text, strings.Join(d.Choices[:last], "', '"), d.Choices[last])
	}
	*v.p = T(text)
	return nil
}
func (v choice[T]) text() string { return string(*v.p) }
func (v choice[T]) detach()      {}

// A SandboxPath is a file or directory of the host that builds see.
type SandboxPath struct {
	Target   string // where the builder sees it; absolute and clean
	Source   string // where it is on the host; absolute and clean
	Optional bool   // leave it out if Source doesn't exist
}

// ParseSandboxPath reads an entry of sandbox-paths: "target" or "target=source",
// with a "?" at the end if the source need not exist. Pre-build hooks print the
// same form.
func ParseSandboxPath(entry string) (SandboxPath, error) {
	text, optional := strings.CutSuffix(entry, "?")
	target, source, ok := strings.Cut(text, "=")
	if !ok {
		source = target
	}
	for _, p := range []string{target, source} {
		if !path.IsAbs(p) || strings.ContainsRune(p, 0) {
			return SandboxPath{}, fmt.Errorf("parse sandbox path '%s': '%s' is not an absolute path", entry, p)
		}
	}
	return SandboxPath{Target: path.Clean(target), Source: path.Clean(source), Optional: optional}, nil
}

// String prints the entry in the form that ParseSandboxPath reads.
func (p SandboxPath) String() string {
	s := p.Target
	if p.Source != p.Target {
		s += "=" + p.Source
	}
	if p.Optional {
		s += "?"
	}
	return s
}

type mounts struct{ p *[]SandboxPath }

// set lets the later of two entries for one target win, in the order of their
// texts, and an entry that is there already win against one that is added: Nix
// reads a line into a set of words first.
func (v mounts) set(d *Definition, text string, add bool) error {
	byTarget := map[string]SandboxPath{}
	for _, w := range newStringSet(words(text)) {
		p, err := ParseSandboxPath(w)
		if err != nil {
			return fmt.Errorf("setting '%s' has invalid value '%s': %w", d.Name, text, err)
		}
		byTarget[p.Target] = p
	}
	if add {
		for _, p := range *v.p {
			byTarget[p.Target] = p
		}
	}
	all := make([]SandboxPath, 0, len(byTarget))
	for _, target := range slices.Sorted(maps.Keys(byTarget)) {
		all = append(all, byTarget[target])
	}
	*v.p = all
	return nil
}

func (v mounts) text() string {
	w := make([]string, len(*v.p))
	for i, p := range *v.p {
		w[i] = p.String()
	}
	return strings.Join(w, " ")
}
func (v mounts) detach() { *v.p = slices.Clone(*v.p) }
