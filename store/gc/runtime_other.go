//go:build !linux

package gc

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"

	"github.com/kilnbuild/kiln/nix"
)

// runtime adds what processes use, as lsof tells it.
func (f *finder) runtime(ctx context.Context) error {
	known := newNames(string(f.store.Dir()), f.store.RealDir())
	cmd := exec.CommandContext(ctx, "lsof", "-n", "-w", "-F", "n")
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		f.report(Problem{Name: "lsof", Err: fmt.Errorf("it is not known what processes use: %w", err)})
		return nil
	}
	lines := bufio.NewScanner(out)
	lines.Buffer(nil, 1<<20)
	pid := "?"
	for lines.Scan() {
		switch line := lines.Bytes(); {
		case bytes.HasPrefix(line, []byte("p")):
			pid = string(line[1:])
		case bytes.HasPrefix(line, []byte("n")):
			known.in(line[1:], func(p nix.StorePath) { f.add(p, Root{"{lsof:" + pid + "}", Process}) })
		}
	}
	err = errors.Join(lines.Err(), cmd.Wait())
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	// It also ends with 1 when there is something that it was not allowed to see.
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		f.report(Problem{Name: "lsof", Err: err})
	}
	return nil
}
