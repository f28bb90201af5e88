package drvopts

import (
	"math"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/jsonvalue"
)

// Names of the files, in the build directory, through which a builder reads
// structured attributes, and of the variables with their paths.
const (
	JSONFile     = ".attrs.json"
	ShellFile    = ".attrs.sh"
	JSONFileVar  = "NIX_ATTRS_JSON_FILE"
	ShellFileVar = "NIX_ATTRS_SH_FILE"
)

// StructuredEnv has the contents of the files of structured attributes.
type StructuredEnv struct {
	JSON  []byte
	Shell []byte // source text for Bash
}

// GraphObject is what a builder is told of one object of a closure that it asked
// for with exportReferencesGraph.
type GraphObject struct {
	Path        nix.StorePath
	NARHash     nix.Hash
	NARSize     int64
	References  []nix.StorePath // sorted
	ClosureSize int64           // sum of NARSize over the object's closure
	CA          nix.ContentAddress
}

// NewStructuredEnv makes the files from structured attributes (the JSON text
// that the derivation has), the derivation's outputs, and the closures that it
// asked for, by key. outputs has what the builder is to see for each output: its
// path, or the placeholder that is replaced in the files afterwards.
//
// The files are those that Nix 2.34 makes on x86-64 Linux, where a fraction
// beyond the range of a 32-bit integer becomes -2147483648 in the shell file.
func NewStructuredEnv(dir nix.StoreDir, attrs string, outputs map[nix.OutputName]string, graphs map[string][]GraphObject) (StructuredEnv, error) {
	v, err := parseStructured(attrs)
	if err != nil {
		return StructuredEnv{}, err
	}
	paths := make(map[string]jsonvalue.Value, len(outputs))
	for name, path := range outputs {
		paths[string(name)] = jsonvalue.NewString(path)
	}
	v = v.With("outputs", jsonvalue.NewObject(paths))
	for key, objects := range graphs {
		v = v.With(key, graphValue(dir, objects))
	}
	text, err := v.AppendText(nil)
	if err != nil {
		return StructuredEnv{}, err
	}
	return StructuredEnv{JSON: text, Shell: appendShell(nil, v)}, nil
}

func graphValue(dir nix.StoreDir, objects []GraphObject) jsonvalue.Value {
	objects = slices.Clone(objects)
	slices.SortFunc(objects, func(a, b GraphObject) int { return strings.Compare(string(a.Path), string(b.Path)) })
	list := make([]jsonvalue.Value, len(objects))
	for i, o := range objects {
		refs := make([]string, len(o.References))
		for i, r := range o.References {
			refs[i] = dir.Join(r)
		}
		members := map[string]jsonvalue.Value{
			"path":        jsonvalue.NewString(dir.Join(o.Path)),
			"narHash":     jsonvalue.NewString(o.NARHash.String()),
			"narSize":     jsonvalue.NewUnsigned(uint64(o.NARSize)),
			"closureSize": jsonvalue.NewUnsigned(uint64(o.ClosureSize)),
			"references":  jsonvalue.NewStrings(refs),
			"valid":       jsonvalue.NewBool(true),
		}
		if !o.CA.IsZero() {
			members["ca"] = jsonvalue.NewString(o.CA.String())
		}
		list[i] = jsonvalue.NewObject(members)
	}
	return jsonvalue.NewArray(list)
}

var shellName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)

// appendShell declares a shell variable for each member that Bash can hold: a
// scalar, or an array or object of scalars.
func appendShell(dst []byte, attrs jsonvalue.Value) []byte {
	for name, v := range attrs.Members() {
		if !shellName.MatchString(name) {
			continue
		}
		if word, ok := shellWord(v); ok {
			dst = append(dst, "declare "+name+"="+word+"\n"...)
		} else if words, ok := shellWords(v); ok {
			flag := "-a"
			if v.Kind() == jsonvalue.Object {
				flag = "-A"
			}
			dst = append(dst, "declare "+flag+" "+name+"=("+words+")\n"...)
		}
	}
	return dst
}

// shellWords are the elements of an array or an object, with a space after each.
// It is not ok for anything else, and when one of them is no scalar.
func shellWords(v jsonvalue.Value) (string, bool) {
	var b strings.Builder
	switch v.Kind() {
	case jsonvalue.Array:
		for _, e := range v.Elements() {
			word, ok := shellWord(e)
			if !ok {
				return "", false
			}
			b.WriteString(word + " ")
		}
	case jsonvalue.Object:
		for key, e := range v.Members() {
			word, ok := shellWord(e)
			if !ok {
				return "", false
			}
			b.WriteString("[" + shellQuote(key) + "]=" + word + " ")
		}
	default:
		return "", false
	}
	return b.String(), true
}

// shellWord is a scalar as a word of the shell. It is not ok for anything else,
// and for fractions.
func shellWord(v jsonvalue.Value) (string, bool) {
	switch v.Kind() {
	case jsonvalue.String:
		return shellQuote(v.Str()), true
	case jsonvalue.Null:
		return "''", true
	case jsonvalue.Bool:
		if v.Bool() {
			return "1", true
		}
		return "", true
	case jsonvalue.Unsigned, jsonvalue.Negative:
		// Nix keeps 32 bits of it.
		return strconv.Itoa(int(int32(v.Uint64()))), true
	case jsonvalue.Float:
		f := v.Float64()
		// Whether it is a fraction is asked of the number in single precision.
		if single := float64(float32(f)); math.Ceil(single) != single {
			return "", false
		}
		if f = math.Trunc(f); f < math.MinInt32 || f > math.MaxInt32 {
			return strconv.Itoa(math.MinInt32), true
		}
		return strconv.Itoa(int(f)), true
	}
	return "", false
}

// shellQuote quotes s so that a shell takes it as it is.
func shellQuote(s string) string {
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
