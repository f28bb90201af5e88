package outputs

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"syscall"

	"github.com/kilnbuild/kiln/internal/bufpipe"
	"github.com/kilnbuild/kiln/internal/until"
	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/githash"
	"github.com/kilnbuild/kiln/nix/nar"
	"github.com/kilnbuild/kiln/nix/refscan"
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

// finishContent makes an object of an output whose path follows from its content.
// The content is hashed without the output's own hash part, which nobody knows
// before.
func (c *collector) finishContent(ctx context.Context, f *found) (*made, error) {
	dir, drv := c.store.Dir(), c.store.Dir().Join(c.job.DrvPath)
	oneFile := f.Spec.Method == nix.Flat || f.Spec.Method == nix.Text
	if oneFile && (!f.shape.regular || f.shape.executable) {
		return nil, nix.BuildErrorf(nix.StatusOutputRejected,
			"output path '%s' should be a non-executable regular file since recursive hashing is not enabled (one of outputHashMode={flat,text} is true)", f.Actual)
	}
	if f.Spec.Kind == nix.Fixed && len(f.refs) > 0 && (f.Spec.Method != nix.Recursive || f.Spec.Hash.Algorithm() != nix.SHA256) {
		return nil, nix.BuildErrorf(nix.StatusOutputRejected,
			"fixed output derivation '%s' is not allowed to refer to other store paths.\nYou may need to use the 'unsafeDiscardReferences' derivation attribute, see the manual for more details.",
			c.job.DrvName)
	}
	if f.Spec.Kind == nix.Fixed && len(f.refs) > 0 {
		return nil, nix.BuildErrorf(nix.StatusOutputRejected,
			"fixed-output derivations must not reference store paths: '%s' references %d distinct paths, e.g. '%s'",
			drv, len(f.refs), dir.Join(f.refs[0]))
	}
	algo := f.Spec.Algorithm
	if f.Spec.Kind == nix.Fixed {
		algo = f.Spec.Hash.Algorithm()
	}
	rewrites := c.rewrites(f)
	self := f.Scratch.HashPart()
	refersToSelf := slices.Contains(f.hits, f.Scratch)

	blanked := maps.Clone(rewrites)
	if refersToSelf {
		blanked[self] = strings.Repeat("\x00", len(self))
	}
	hash, err := c.hashContent(ctx, f, algo, blanked)
	if err != nil {
		return nil, err
	}
	ca := nix.ContentAddress{Method: f.Spec.Method, Hash: hash}
	refs := c.references(f)
	path, err := nix.MakeContentAddressedPath(dir, nix.OutputPathName(c.job.DrvName, f.Name), ca, refs)
	if err != nil {
		return nil, nix.BuildErrorf(nix.StatusOutputRejected, "output '%s' of '%s': %v", f.Name, drv, err)
	}
	m := c.begin(f, path, refs)
	m.Info.CA = ca
	if refersToSelf && path != f.Scratch {
		rewrites[self] = path.HashPart()
	}
	return m, c.rewrite(ctx, f, m, rewrites)
}

// hashContent computes the hash of an output's content address, with hash parts
// replaced.
func (c *collector) hashContent(ctx context.Context, f *found, algo nix.HashAlgorithm, rewrites map[string]string) (nix.Hash, error) {
	switch {
	case f.Spec.Method == nix.Recursive && len(rewrites) == 0 && algo == nix.SHA256:
		return f.scanned.narHash, nil
	case f.Spec.Method == nix.Recursive && len(rewrites) == 0 && f.scanned.also.Algorithm() == algo:
		return f.scanned.also, nil
	case f.Spec.Method == nix.Git:
		return hashGit(ctx, f.at, algo, rewrites)
	}
	sum := algo.New()
	w, err := refscan.NewRewriter(sum, rewrites, refscan.RewriterOptions{})
	if err != nil {
		return nix.Hash{}, err
	}
	if f.Spec.Method == nix.Recursive {
		_, err = nar.Dump(until.Writer(ctx, w), f.at, nar.DumpOptions{})
	} else {
		err = readFile(f.at, until.Writer(ctx, w))
	}
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		return nix.Hash{}, fmt.Errorf("hash output '%s': %w", f.Name, err)
	}
	return nix.SumHash(algo, sum), nil
}

// hashGit computes the hash by which git knows a tree.
func hashGit(ctx context.Context, path string, algo nix.HashAlgorithm, rewrites map[string]string) (sum nix.Hash, err error) {
	err = through(
		func(w io.Writer) error { return dumpRewritten(ctx, w, path, rewrites) },
		func(r io.Reader) (err error) {
			sum, err = githash.Sum(bufio.NewReader(r), algo, nar.Limits{})
			return err
		})
	return sum, err
}

// copyRewritten copies a tree into fresh inodes in canonical form, with hash parts
// replaced, and gives the hash and size of the copy's archive.
func copyRewritten(ctx context.Context, from, to string, rewrites map[string]string) (hash nix.Hash, size int64, err error) {
	sum := nix.SHA256.New()
	err = through(
		func(w io.Writer) error { return dumpRewritten(ctx, io.MultiWriter(sum, w), from, rewrites) },
		func(r io.Reader) error {
			stats, err := nar.Restore(to, bufio.NewReader(r), nar.RestoreOptions{})
			size = stats.Size
			return err
		})
	if err != nil {
		return nix.Hash{}, 0, fmt.Errorf("rewrite references in output '%s': %w", from, err)
	}
	return nix.SumHash(nix.SHA256, sum), size, nil
}

// dumpRewritten writes the archive of a tree with hash parts replaced.
func dumpRewritten(ctx context.Context, w io.Writer, path string, rewrites map[string]string) error {
	rewriter, err := refscan.NewRewriter(w, rewrites, refscan.RewriterOptions{})
	if err != nil {
		return err
	}
	if _, err := nar.Dump(until.Writer(ctx, rewriter), path, nar.DumpOptions{}); err != nil {
		return err
	}
	return rewriter.Close()
}

// through runs a function that writes and one that reads what it writes. If one
// of them fails, the other one ends.
func through(write func(io.Writer) error, read func(io.Reader) error) error {
	r, w := bufpipe.New()
	written := make(chan error, 1)
	go func() {
		err := write(w)
		w.CloseWithError(err)
		written <- err
	}()
	err := read(r)
	r.CloseWithError(err)
	if werr := <-written; err == nil {
		err = werr
	}
	return err
}

func readFile(path string, w io.Writer) error {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = io.Copy(w, f)
	return err
}
