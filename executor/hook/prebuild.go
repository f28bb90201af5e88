package hook

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/kilnbuild/kiln/nix/conf"
)

// Limits of what a pre-build-hook may print. Beyond one of them its answer is an
// error.
const (
	MaxPreBuildOutput = 1 << 20 // bytes
	MaxPreBuildPaths  = 4096
)

// maxHookLog is how many bytes are kept of what a hook prints for people.
const maxHookLog = 64 << 10

// PreBuild is a run of the program of pre-build-hook: it may add to the sandbox
// of one build. Its arguments are Drv and, for a build in a sandbox, Root. It
// runs as this process's user, in its working directory.
type PreBuild struct {
	Program string        // a path, or a name in PATH
	Drv     string        // the derivation's path, as Nix prints it
	Root    string        // the directory that becomes the root of the sandbox; "" without a sandbox
	Env     []string      // nil: this process's
	Timeout time.Duration // 0 for none
}

// PreBuildResult is what a pre-build-hook answered.
type PreBuildResult struct {
	// Paths are to be added to the sandbox, in the place of others with the same
	// target. They are sorted by target, each of which is there once.
	Paths []conf.SandboxPath
	// Log is the end of what the program printed on its error output.
	Log string
}

// Run runs the program to its end and reads its answer; what it left running is
// killed. A program that fails, or answers with what is not understood, is an
// error that has what it printed for people. When ctx ends or the time is up, the
// program is killed.
func (h PreBuild) Run(ctx context.Context) (PreBuildResult, error) {
	answer := limited{head: head{max: MaxPreBuildOutput}, err: fmt.Errorf("the pre-build-hook '%s' printed more than %d bytes", h.Program, MaxPreBuildOutput)}
	log := tail{max: maxHookLog}
	j := job{
		setting: "pre-build-hook", program: h.Program, args: []string{h.Drv},
		env: h.Env, timeout: h.Timeout, stdout: &answer, stderr: &log,
	}
	if h.Root != "" {
		j.args = append(j.args, h.Root)
	}
	if err := j.run(ctx); err != nil {
		var exit *ExitError
		if errors.As(err, &exit) {
			exit.Output = log.String()
			return PreBuildResult{}, err
		}
		return PreBuildResult{}, fmt.Errorf("%w%s", err, printed(log.String()))
	}
	paths, err := parsePreBuild(answer.kept)
	if err != nil {
		return PreBuildResult{}, fmt.Errorf("the pre-build-hook '%s' printed in %w%s", h.Program, err, printed(log.String()))
	}
	return PreBuildResult{Paths: paths, Log: log.String()}, nil
}

// limited is a head that fails when it is full.
type limited struct {
	head
	err error
}

func (l *limited) Write(p []byte) (int, error) {
	n, _ := l.head.Write(p)
	if l.truncated {
		return 0, l.err
	}
	return n, nil
}

// parsePreBuild reads what a pre-build-hook prints: a line extra-sandbox-paths
// (once extra-chroot-dirs), then lines TARGET or TARGET=SOURCE, then an empty
// line or the end; as often as it likes. Of the same target, the last counts.
//
// Nix passes over a last line without a line end, and takes a path that is not
// absolute; here the one is a line like any other, and the other an error.
func parsePreBuild(text []byte) ([]conf.SandboxPath, error) {
	paths := map[string]conf.SandboxPath{}
	inPaths := false
	n := 0
	for line := range bytes.Lines(text) {
		n++
		s := strings.TrimSuffix(string(line), "\n")
		switch {
		case inPaths && s == "":
			inPaths = false
		case inPaths:
			p, err := parsePreBuildPath(s)
			if err != nil {
				return nil, fmt.Errorf("line %d: %w", n, err)
			}
			paths[p.Target] = p
			if len(paths) > MaxPreBuildPaths {
				return nil, fmt.Errorf("line %d: there are more than %d sandbox paths", n, MaxPreBuildPaths)
			}
		case s == "extra-sandbox-paths", s == "extra-chroot-dirs":
			inPaths = true
		default:
			return nil, fmt.Errorf("line %d: unknown pre-build hook command %s; the one there is is extra-sandbox-paths", n, quoted(s))
		}
	}
	sorted := slices.Collect(maps.Values(paths))
	slices.SortFunc(sorted, func(a, b conf.SandboxPath) int { return strings.Compare(a.Target, b.Target) })
	return sorted, nil
}

// parsePreBuildPath reads TARGET=SOURCE or TARGET. Unlike in the setting
// sandbox-paths, a question mark at the end is a part of the name.
func parsePreBuildPath(line string) (conf.SandboxPath, error) {
	target, source, ok := strings.Cut(line, "=")
	if !ok {
		source = target
	}
	for _, p := range []string{target, source} {
		if !path.IsAbs(p) || strings.ContainsRune(p, 0) {
			return conf.SandboxPath{}, fmt.Errorf("%s is no sandbox path: write TARGET=SOURCE, both absolute", quoted(line))
		}
	}
	return conf.SandboxPath{Target: path.Clean(target), Source: path.Clean(source)}, nil
}

// quoted is a line of a hook's output for a message: without anything that would
// do something to a terminal, and not too long.
func quoted(line string) string {
	const most = 200
	if len(line) > most {
		return fmt.Sprintf("%q…", line[:most])
	}
	return fmt.Sprintf("%q", line)
}
