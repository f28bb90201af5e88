package build

import (
	"maps"
	"path"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/drvopts"
)

// surroundings is everything that a builder can read about what it is to do: its
// command line, its environment and the files in its build directory.
type surroundings struct {
	args  []string          // with the program's name first
	env   map[string]string // complete
	files map[string]string // name in the build directory to content
}

// surround computes a builder's surroundings. buildDir is the build directory as
// the builder sees it, scratch has the paths that it is to write to, graphs the
// contents of the references graphs it asked for. Where the derivation has a path
// of redirected, the builder sees the one that it has there. The order in which variables
// override each other is that of the Nix manual ("Build Execution").
func surround(a *Attempt, s *Settings, dir nix.StoreDir, buildDir string, scratch map[nix.OutputName]nix.StorePath, redirected map[nix.StorePath]nix.StorePath, graphs graph) (*surroundings, error) {
	placeholders := placeholderReplacer(dir, scratch, redirected)
	sur := &surroundings{
		files: make(map[string]string),
		env: map[string]string{
			"PATH":            "/path-not-set",
			"HOME":            "/homeless-shelter",
			"NIX_STORE":       string(dir),
			"NIX_BUILD_CORES": strconv.Itoa(cores(s.Cores)),
		},
	}
	if attrs, structured := a.Drv.StructuredAttrs(); structured {
		if err := sur.addStructured(attrs, dir, buildDir, scratch, placeholders, graphs); err != nil {
			return nil, err
		}
	} else {
		sur.addVariables(a, buildDir, placeholders)
		maps.Copy(sur.files, graphs.files(dir))
	}
	for _, name := range []string{"NIX_BUILD_TOP", "TMPDIR", "TEMPDIR", "TMP", "TEMP", "PWD"} {
		sur.env[name] = buildDir
	}
	kind, err := a.Drv.Kind()
	if err != nil {
		return nil, err
	}
	if kind == nix.Fixed {
		sur.env["NIX_OUTPUT_CHECKED"] = "1"
	}
	if !kind.IsPure() {
		for _, name := range a.Options.ImpureEnvVars {
			sur.env[name] = impureValue(s, name)
		}
	}
	if a.Recursive() {
		sur.env["NIX_REMOTE"] = "unix://" + path.Join(buildDir, socketName)
	}
	sur.env["NIX_LOG_FD"] = "2"
	sur.env["TERM"] = "xterm-256color"

	sur.args = append(sur.args, path.Base(a.Drv.Builder))
	for _, arg := range a.Drv.Args {
		sur.args = append(sur.args, placeholders.Replace(arg))
	}
	return sur, nil
}

// addVariables gives the derivation's variables in the environment, and in files
// where it says so.
func (sur *surroundings) addVariables(a *Attempt, buildDir string, placeholders *strings.Replacer) {
	for name, value := range a.Drv.Env {
		value = placeholders.Replace(value)
		if slices.Contains(a.Options.PassAsFile, name) {
			file := drvopts.AttrFileName(name)
			sur.files[file] = value
			sur.env[name+"Path"] = path.Join(buildDir, file)
			continue
		}
		sur.env[placeholders.Replace(name)] = value
	}
}

// addStructured gives the derivation's attributes as JSON and as a shell script.
func (sur *surroundings) addStructured(attrs string, dir nix.StoreDir, buildDir string, scratch map[nix.OutputName]nix.StorePath, placeholders *strings.Replacer, graphs graph) error {
	outputs := make(map[nix.OutputName]string, len(scratch))
	for name := range scratch {
		outputs[name] = nix.Placeholder(name)
	}
	files, err := drvopts.NewStructuredEnv(dir, attrs, outputs, graphs.objects())
	if err != nil {
		return nix.BuildErrorf(nix.StatusInputRejected, "structured attributes: %v", err)
	}
	sur.files[drvopts.JSONFile] = placeholders.Replace(string(files.JSON))
	sur.files[drvopts.ShellFile] = placeholders.Replace(string(files.Shell))
	sur.env[drvopts.JSONFileVar] = path.Join(buildDir, drvopts.JSONFile)
	sur.env[drvopts.ShellFileVar] = path.Join(buildDir, drvopts.ShellFile)
	return nil
}

// placeholderReplacer puts the paths that a builder is to write to where the
// derivation has placeholders for them, or other paths.
func placeholderReplacer(dir nix.StoreDir, scratch map[nix.OutputName]nix.StorePath, redirected map[nix.StorePath]nix.StorePath) *strings.Replacer {
	var pairs []string
	for _, name := range slices.Sorted(maps.Keys(scratch)) {
		pairs = append(pairs, nix.Placeholder(name), dir.Join(scratch[name]))
	}
	for _, from := range slices.Sorted(maps.Keys(redirected)) {
		pairs = append(pairs, from.HashPart(), redirected[from].HashPart())
	}
	return strings.NewReplacer(pairs...)
}

func impureValue(s *Settings, name string) string {
	if v, ok := s.ImpureEnv[name]; ok {
		return v
	}
	if s.Environ != nil {
		v, _ := s.Environ(name)
		return v
	}
	return ""
}

func cores(n int) int {
	if n > 0 {
		return n
	}
	return runtime.NumCPU()
}

// environ prints an environment as exec takes it, sorted.
func environ(env map[string]string) []string {
	list := make([]string, 0, len(env))
	for _, k := range slices.Sorted(maps.Keys(env)) {
		list = append(list, k+"="+env[k])
	}
	return list
}
