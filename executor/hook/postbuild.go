package hook

import (
	"context"
	"io"
	"os"
	"slices"
	"strings"
	"time"
)

// MaxPostBuildLine is how many bytes of a post-build-hook's line are given as one
// line.
const MaxPostBuildLine = 64 << 10

// PostBuild is a run of the program of post-build-hook: it is told which outputs
// a build made, after they were registered. It has no arguments, and runs as this
// process's user, in its working directory.
type PostBuild struct {
	Program string   // a path, or a name in PATH
	Drv     string   // the derivation's path, as Nix prints it: DRV_PATH
	Outputs []string // what was built, likewise: OUT_PATHS, sorted, with spaces between them
	Config  string   // the settings in force, in the notation of nix.conf: NIX_CONFIG
	// Env is the rest of the environment; nil is this process's. Nix lets a
	// variable that is there already win over the three; here they are what they
	// say.
	Env []string
	// Output takes what the program prints on both of its outputs, by lines: each
	// call has one, with its end. A line that is longer than MaxPostBuildLine bytes
	// comes as several. What the program prints is thrown away if Output is nil. If
	// it fails, the program is killed and the error is Run's.
	Output  io.Writer
	Timeout time.Duration // 0 for none
}

// Run runs the program until it has ended and nobody has its output open any
// more. What has let go of the output may stay in the background if the program
// ended by itself, as with Nix: an upload may go on that way. When ctx ends or
// the time is up, the program is killed with all that it started.
//
// A program that fails is an *ExitError, whose text is Nix's. The outputs are
// valid all the same; Nix starts no further builds.
func (h PostBuild) Run(ctx context.Context) error {
	out := lines{max: MaxPostBuildLine, take: func([]byte) error { return nil }}
	if h.Output != nil {
		var buf []byte
		out.take = func(line []byte) error {
			buf = append(append(buf[:0], line...), '\n')
			_, err := h.Output.Write(buf)
			return err
		}
	}
	env := h.Env
	if env == nil {
		env = os.Environ()
	}
	outputs := slices.Compact(slices.Sorted(slices.Values(h.Outputs)))
	j := job{
		setting: "post-build-hook", program: h.Program,
		// Of a variable that is there twice, the later counts.
		env:     append(slices.Clip(env), "DRV_PATH="+h.Drv, "OUT_PATHS="+strings.Join(outputs, " "), "NIX_CONFIG="+h.Config),
		timeout: h.Timeout, stdout: &out, spare: true,
	}
	err := j.run(ctx)
	if last := out.flush(); err == nil {
		err = last
	}
	return err
}
