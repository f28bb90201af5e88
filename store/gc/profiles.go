package gc

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/kilnbuild/kiln/store/local"
)

// A Generation is what a profile was at some time: a link beside it.
type Generation struct {
	Number  int64
	Link    string // its path
	Made    time.Time
	Current bool
}

// DeleteGenerations deletes old generations of all profiles of a store, with the
// locks of the profiles. Without before, those are all but the current ones; with it,
// those that had been replaced by then, so that what was current at that time is
// there to go back to. With dryRun nothing is deleted. It gives what was deleted, or
// would be. (Nix: nix-collect-garbage -d, --delete-older-than.)
func DeleteGenerations(ctx context.Context, st *local.Store, before time.Time, dryRun bool, report func(Problem)) ([]Generation, error) {
	if report == nil {
		report = func(Problem) {}
	}
	var deleted []Generation
	err := filepath.WalkDir(filepath.Join(st.StateDir(), "profiles"), func(path string, d fs.DirEntry, err error) error {
		if cause := context.Cause(ctx); cause != nil {
			return cause
		}
		if err != nil {
			if !errors.Is(err, fs.ErrNotExist) {
				report(Problem{Name: path, Err: fmt.Errorf("cannot read profiles: %w", err)})
			}
			return nil
		}
		if d.Type()&fs.ModeSymlink == 0 {
			return nil
		}
		if target, err := os.Readlink(path); err != nil || !isGenerationOf(filepath.Base(path), filepath.Base(target)) {
			return nil // a generation, or no profile
		}
		old, err := deleteGenerations(ctx, st, path, before, dryRun)
		deleted = append(deleted, old...)
		if err != nil {
			report(Problem{Name: path, Err: fmt.Errorf("delete old generations: %w", err)})
		}
		return nil
	})
	return deleted, err
}

func deleteGenerations(ctx context.Context, st *local.Store, profile string, before time.Time, dryRun bool) (deleted []Generation, err error) {
	if !dryRun {
		release, err := st.LockFile(ctx, profile+".lock")
		if err != nil {
			return nil, err
		}
		defer func() { err = errors.Join(err, release()) }()
	}
	all, err := Generations(profile)
	if err != nil {
		return nil, err
	}
	for _, g := range oldGenerations(all, before) {
		if !dryRun {
			if err := os.Remove(g.Link); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return deleted, err
			}
		}
		deleted = append(deleted, g)
	}
	return deleted, nil
}

// oldGenerations chooses from generations in the order of their numbers.
func oldGenerations(all []Generation, before time.Time) (old []Generation) {
	if before.IsZero() {
		for _, g := range all {
			if !g.Current {
				old = append(old, g)
			}
		}
		return old
	}
	seen := false
	for _, g := range slices.Backward(all) {
		// The last one from before was current at that time.
		if seen && !g.Current {
			old = append(old, g)
		}
		seen = seen || g.Made.Before(before)
	}
	return old
}

// Generations gives those of a profile, in the order of their numbers.
func Generations(profile string) ([]Generation, error) {
	current, err := os.Readlink(profile)
	if err != nil {
		return nil, err
	}
	dir := filepath.Dir(profile)
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var all []Generation
	for _, e := range entries {
		number, ok := generationNumber(filepath.Base(profile), e.Name())
		if !ok || e.Type()&fs.ModeSymlink == 0 {
			continue
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		all = append(all, Generation{number, filepath.Join(dir, e.Name()), info.ModTime(), e.Name() == filepath.Base(current)})
	}
	slices.SortFunc(all, func(a, b Generation) int { return int(a.Number - b.Number) })
	return all, nil
}

func isGenerationOf(profile, name string) bool {
	_, ok := generationNumber(profile, name)
	return ok
}

// generationNumber reads the name of a generation: that of the profile, a number and
// "link", with dashes between them.
func generationNumber(profile, name string) (int64, bool) {
	rest, ok := strings.CutPrefix(name, profile+"-")
	if !ok {
		return 0, false
	}
	digits, ok := strings.CutSuffix(rest, "-link")
	if !ok {
		return 0, false
	}
	n, err := strconv.ParseUint(digits, 10, 62)
	return int64(n), err == nil
}
