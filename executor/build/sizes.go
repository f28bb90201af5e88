package build

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/kilnbuild/kiln/internal/dirfd"
	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/sandbox"
)

// checkSizes looks at what the builder has written. A *limitError says that it is too
// much. What cannot be read, because it changes meanwhile or because the builder keeps us
// out, does not count.
func (r *run) checkSizes(ctx context.Context, lim nix.Limits) error {
	var outputs []string
	for _, p := range r.scratch {
		place := r.machine.Store.RealPath(p)
		if r.isolation == sandbox.Full {
			place = filepath.Join(r.work.root, r.machine.Store.Dir().Join(p))
		}
		outputs = append(outputs, place)
	}
	m := measure{ctx: ctx}
	for _, p := range outputs {
		m.tree(p)
	}
	output := m.bytes
	if lim.Output > 0 && (output > lim.Output || m.tooDeep) {
		return m.exceeded(fmt.Sprintf("killed after writing more than %d bytes of outputs", lim.Output),
			nix.Failure{Kind: nix.FailureOutputSize, Limit: lim.Output, Peak: output})
	}
	if lim.BuildDir == 0 {
		return nil
	}
	m = measure{ctx: ctx}
	m.tree(r.work.inner)
	if r.work.root != "" {
		m.tree(r.work.root)
		m.bytes -= output // they are in there
	}
	if m.bytes > lim.BuildDir || m.tooDeep {
		return m.exceeded(fmt.Sprintf("killed after writing more than %d bytes into its build directory", lim.BuildDir),
			nix.Failure{Kind: nix.FailureBuildDirSize, Limit: lim.BuildDir, Peak: m.bytes})
	}
	return nil
}

func (m *measure) exceeded(text string, f nix.Failure) error {
	if m.tooDeep {
		text = fmt.Sprintf("killed because it made directories more than %d deep, whose size nobody can watch", maxMeasuredDepth)
	}
	return &limitError{nix.StatusPermanentFailure, text, f}
}

// measure adds up what trees of files take.
type measure struct {
	ctx     context.Context
	bytes   int64
	tooDeep bool
	depth   int
}

// maxMeasuredDepth bounds the descriptors that are open at once.
const maxMeasuredDepth = 200

// minFileSize is what every file counts at least: none is for nothing.
const minFileSize = 512

var errTooDeep = errors.New("too deep")

// tree adds the size of the tree at path. Symbolic links are not followed, and file
// systems that are mounted in it are not entered.
func (m *measure) tree(path string) {
	dir, name, err := dirfd.OpenParent(path)
	if err != nil {
		return
	}
	defer dirfd.Close(dir)
	m.entry(dir, name)
}

func (m *measure) entry(dir int, name string) {
	size, isDir, err := diskUsage(dir, name)
	if err != nil {
		return
	}
	m.bytes += size
	if !isDir {
		return
	}
	if m.depth == maxMeasuredDepth {
		m.tooDeep = true
		return
	}
	fd, err := dirfd.OpenDirHere(dir, name)
	if err != nil {
		return
	}
	defer dirfd.Close(fd)
	m.depth++
	defer func() { m.depth-- }()
	room := make([]byte, os.Getpagesize())
	// What changes while it is listed is looked at again next time.
	_ = dirfd.List(fd, room, func(name []byte, _ dirfd.Type) error {
		if m.tooDeep {
			return errTooDeep
		}
		m.entry(fd, string(name))
		return m.ctx.Err()
	})
}
