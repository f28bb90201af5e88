package hook

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"syscall"
	"time"
)

// MaxDiffOutput is how many bytes of the output of a diff-hook are kept.
const MaxDiffOutput = 10 << 20

// Diff is a run of the program of diff-hook: it is to show a person how an output
// differs from what the same build gave before. Its arguments are Old, New, Drv
// and TmpDir, and its working directory is /.
type Diff struct {
	Program string // a path, or a name in PATH
	Old     string // the registered output, where it is on this machine
	New     string // what the check gave
	Drv     string // the derivation's path, as Nix prints it
	TmpDir  string // the build's temporary directory
	// UID and GID are the build user's. Only root runs the program as them, and
	// without any further group; others run it as themselves.
	UID, GID int
	Env      []string      // nil: this process's
	Timeout  time.Duration // 0 for none
}

// DiffResult is what there is to tell of a Diff. Whatever it says, the outputs
// differ, and nothing else follows from it.
type DiffResult struct {
	// Output is what the program printed on both of its outputs, without the last
	// line ends; at most MaxDiffOutput bytes. It may have any bytes.
	Output    []byte
	Truncated bool  // there was more
	Failure   error // why it cannot be relied on, for the log; nil for exit code 0
}

// Run runs the program to its end. What it left running is killed. When ctx ends
// or the time is up, it is killed itself, and Failure says so.
func (d Diff) Run(ctx context.Context) DiffResult {
	out := head{max: MaxDiffOutput}
	j := job{
		setting: "diff-hook", program: d.Program,
		args: []string{d.Old, d.New, d.Drv, d.TmpDir},
		env:  d.Env, dir: "/", timeout: d.Timeout, stdout: &out,
	}
	if os.Geteuid() == 0 {
		j.as = &syscall.Credential{Uid: uint32(d.UID), Gid: uint32(d.GID)}
	}
	r := DiffResult{}
	if err := j.run(ctx); err != nil {
		r.Failure = fmt.Errorf("diff hook execution failed: %w", err)
	}
	r.Output, r.Truncated = bytes.TrimRight(out.kept, "\r\n"), out.truncated
	return r
}
