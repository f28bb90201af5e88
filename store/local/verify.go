package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/kilnbuild/kiln/internal/until"
	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/nar"
)

// VerifyOptions say what Verify looks at and what it does about it.
type VerifyOptions struct {
	// CheckContents hashes every object.
	CheckContents bool
	// Problem, if not nil, is told of each problem when it is found, and in the end of
	// what Forget is about.
	Problem func(Problem)
	// Repair, if not nil, is called to make an object right again. If that
	// succeeds, the problem does not count.
	Repair func(ctx context.Context, p nix.StorePath) error
	// Forget makes objects invalid that are missing, and to which no valid object
	// refers, as nix-store --verify does.
	Forget bool
}

// Problem is something that is wrong with a valid object.
type Problem struct {
	Path nix.StorePath
	// Message is a sentence, ready to print.
	Message string
	Err     error // what kept Verify from looking, or Repair from succeeding, if anything
	// Forgotten says that the object is missing and was made invalid, so that nothing is
	// wrong any more: such a problem is told and not counted.
	Forgotten bool
}

func (p Problem) String() string {
	if p.Err != nil {
		return fmt.Sprintf("%s: %v", p.Message, p.Err)
	}
	return p.Message
}

// Verify checks that every valid object is there, and if asked that its content
// has the hash that it is registered with. It gives the number of problems that
// remain. While it runs, collectors wait.
func (s *Store) Verify(ctx context.Context, opts VerifyOptions) (problems int, err error) {
	if !s.opts.ReadOnly {
		f, err := openLock(s.layout.gcLock())
		if err != nil {
			return 0, fmt.Errorf("verify store: %w", explain(err))
		}
		defer f.Close()
		if err := pollFlock(ctx, f, lockShared); err != nil {
			return 0, fmt.Errorf("verify store: %w", err)
		}
	}
	v := &verifier{store: s, opts: opts}
	for p, err := range s.AllValidPaths(ctx) {
		if err == nil {
			err = v.object(ctx, p)
		}
		if err != nil {
			return v.problems, fmt.Errorf("verify store: %w", err)
		}
	}
	return v.problems, v.forget(ctx)
}

type verifier struct {
	store    *Store
	opts     VerifyOptions
	problems int
	missing  []Problem // to forget
}

// object checks one object. An error is one of the store, not of the object.
func (v *verifier) object(ctx context.Context, p nix.StorePath) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	full := v.store.opts.StoreDir.Join(p)
	_, err := os.Lstat(v.store.RealPath(p))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		problem := Problem{Path: p, Message: fmt.Sprintf("path '%s' disappeared", full)}
		if !v.opts.Forget {
			v.report(ctx, problem)
		} else if !v.repair(ctx, &problem) {
			v.missing = append(v.missing, problem)
		}
		return nil
	case err != nil:
		v.report(ctx, Problem{Path: p, Message: fmt.Sprintf("path '%s' cannot be looked at", full), Err: err})
		return nil
	case !v.opts.CheckContents:
		return nil
	}
	info, err := v.store.PathInfo(ctx, p)
	if errors.Is(err, errClosed) || context.Cause(ctx) != nil {
		return err
	}
	if err != nil {
		v.report(ctx, Problem{Path: p, Message: fmt.Sprintf("path '%s' is not registered properly", full), Err: err})
		return nil
	}
	digest := nix.SHA256.New()
	d := newDigest(digest)
	size, err := nar.Dump(until.Writer(ctx, d), v.store.RealPath(p), nar.DumpOptions{})
	d.wait()
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	if err != nil {
		v.report(ctx, Problem{Path: p, Message: fmt.Sprintf("path '%s' cannot be read", full), Err: err})
		return nil
	}
	if got := nix.SumHash(nix.SHA256, digest); got != info.NARHash {
		v.report(ctx, Problem{Path: p, Message: fmt.Sprintf("path '%s' was modified! expected hash '%s', got '%s'", full, info.NARHash, got)})
	} else if info.NARSize != 0 && info.NARSize != size {
		v.report(ctx, Problem{Path: p, Message: fmt.Sprintf("path '%s' is registered with a size of %d bytes, and has %d", full, info.NARSize, size)})
	}
	return nil
}

// report tries to repair what is wrong, and tells of it if that fails.
func (v *verifier) report(ctx context.Context, p Problem) {
	if !v.repair(ctx, &p) {
		v.problems++
		v.tell(p)
	}
}

// repair tries to repair what is wrong. It tells whether that succeeded.
func (v *verifier) repair(ctx context.Context, p *Problem) bool {
	if v.opts.Repair == nil {
		return false
	}
	err := v.opts.Repair(ctx, p.Path)
	if err != nil {
		p.Err = errors.Join(p.Err, fmt.Errorf("repair: %w", err))
	}
	return err == nil
}

func (v *verifier) tell(p Problem) {
	if v.opts.Problem != nil {
		v.opts.Problem(p)
	}
}

// forget makes missing objects invalid, as far as no other refers to them. The others
// are problems.
func (v *verifier) forget(ctx context.Context) error {
	for again := true; again; {
		again = false // each round may free others of their last referrer
		var kept []Problem
		for _, p := range v.missing {
			if err := v.store.Invalidate(ctx, p.Path); err != nil {
				if cause := context.Cause(ctx); cause != nil {
					return cause
				}
				kept = append(kept, p)
				continue
			}
			again, p.Forgotten = true, true
			p.Message += ", removing from database..."
			v.tell(p)
		}
		v.missing = kept
	}
	v.problems += len(v.missing)
	for _, p := range v.missing {
		p.Message += ", but it still has valid referrers"
		v.tell(p)
	}
	return nil
}
