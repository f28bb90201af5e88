package outputs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"syscall"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/nar"
)

// shape is what kind of file an output is at its top.
type shape struct {
	regular    bool
	executable bool
}

// look checks the top of an output: it must be there, and nobody but its
// builder may have been able to write to it.
func (c *collector) look(o *Produced) (shape, error) {
	st, err := os.Lstat(o.Actual)
	if errors.Is(err, os.ErrNotExist) {
		return shape{}, nix.BuildErrorf(nix.StatusOutputRejected,
			"builder for '%s' failed to produce output path for output '%s' at '%s'", c.store.Dir().Join(c.job.DrvPath), o.Name, o.Actual)
	}
	if err != nil {
		return shape{}, fmt.Errorf("look at output '%s': %w", o.Name, err)
	}
	const othersWrite = 0o022
	symlink := st.Mode()&os.ModeSymlink != 0
	if !symlink && st.Mode().Perm()&othersWrite != 0 || !c.job.Owner.Owns(st.Sys().(*syscall.Stat_t).Uid) {
		return shape{}, nix.BuildErrorf(nix.StatusOutputRejected,
			"suspicious ownership or permission on '%s' for output '%s'; rejecting this build output", o.Actual, o.Name)
	}
	return shape{regular: st.Mode().IsRegular(), executable: st.Mode()&0o100 != 0}, nil
}

// finishFixed checks an output against the hash that the derivation states. The
// files are copied first: a builder of a fixed output had the network, and may
// have handed a descriptor of them to somebody who is still there. Nobody has
// one of the copies.
func (c *collector) finishFixed(ctx context.Context, f *found) (*made, error) {
	drv := c.store.Dir().Join(c.job.DrvPath)
	if f.Spec.Method == nix.Flat && (!f.shape.regular || f.shape.executable) {
		return nil, nix.BuildErrorf(nix.StatusOutputRejected,
			"output path '%s' should be a non-executable regular file since recursive hashing is not enabled (one of outputHashMode={flat,text} is true)", f.Actual)
	}
	if len(f.refs) > 0 {
		return nil, nix.BuildErrorf(nix.StatusOutputRejected,
			"fixed-output derivations must not reference store paths: '%s' references %d distinct paths, e.g. '%s'",
			drv, len(f.refs), c.store.Dir().Join(f.refs[0]))
	}

	temp, err := c.store.TempDir(ctx)
	if err != nil {
		return nil, err
	}
	c.temps = append(c.temps, temp)
	fresh := filepath.Join(temp.Path(), "x")
	copied, got, err := copyTree(ctx, f.Actual, fresh, f.Spec.Method, f.Spec.Hash.Algorithm())
	if err != nil {
		return nil, err
	}

	ca := nix.ContentAddress{Method: f.Spec.Method, Hash: got}
	path, err := nix.MakeContentAddressedPath(c.store.Dir(), c.job.DrvName, ca, nix.References{})
	if err != nil {
		return nil, err
	}
	m := &made{from: fresh, expected: f.Spec.Path, Collected: Collected{Output: f.Name, Info: nix.PathInfo{
		Path: path, NARHash: copied.narHash, NARSize: copied.narSize, Deriver: c.job.DrvPath, Ultimate: true, CA: ca,
	}}}
	if got != f.Spec.Hash {
		m.mismatch = nix.BuildErrorf(nix.StatusHashMismatch,
			"hash mismatch in fixed-output derivation '%s':\n  specified: %s\n     got:    %s", drv, f.Spec.Hash.SRI(), got.SRI())
	}
	return m, nil
}

// copyTree copies a tree into fresh inodes in canonical form, and gives the
// archive's hash and size and the hash of the content by the given method.
func copyTree(ctx context.Context, from, to string, method nix.ContentAddressMethod, algo nix.HashAlgorithm) (scanned, nix.Hash, error) {
	content := algo.New()
	narDigest := nix.SHA256.New()
	var size countingWriter
	sinks := []io.Writer{narDigest, &size}
	if method == nix.Recursive && algo != nix.SHA256 {
		sinks = append(sinks, content)
	}

	r, w := io.Pipe()
	dumped := make(chan error, 1)
	go func() {
		_, err := nar.Dump(io.MultiWriter(append([]io.Writer{w}, sinks...)...), from, nar.DumpOptions{})
		w.CloseWithError(err)
		dumped <- err
	}()
	_, err := nar.Restore(to, r, nar.RestoreOptions{})
	r.CloseWithError(err)
	if derr := <-dumped; derr != nil && err == nil {
		err = derr
	}
	if err != nil {
		return scanned{}, nix.Hash{}, fmt.Errorf("copy output '%s': %w", from, err)
	}
	result := scanned{narHash: nix.SumHash(nix.SHA256, narDigest), narSize: int64(size)}
	switch {
	case method == nix.Recursive && algo == nix.SHA256:
		return result, result.narHash, nil
	case method == nix.Flat:
		if err := hashFile(to, content); err != nil {
			return scanned{}, nix.Hash{}, err
		}
	}
	return result, nix.SumHash(algo, content), nil
}

func hashFile(path string, w io.Writer) error {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return fmt.Errorf("hash output: %w", err)
	}
	defer f.Close()
	if _, err := io.Copy(w, f); err != nil {
		return fmt.Errorf("hash output '%s': %w", path, err)
	}
	return nil
}

type countingWriter int64

func (c *countingWriter) Write(p []byte) (int, error) {
	*c += countingWriter(len(p))
	return len(p), nil
}
