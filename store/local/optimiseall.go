package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
)

// Optimise replaces equal files of all valid objects by hard links to each other
// (OptimisePath), and gives the bytes that this saves. What is collected meanwhile is
// left out. Trouble with one object is told to Options.Warn, and goes no further;
// failed is how often that was so. progress, if not nil, is called after each object.
func (s *Store) Optimise(ctx context.Context, progress func(done int, saved int64)) (saved int64, failed int, err error) {
	if err := s.changes(); err != nil {
		return 0, 0, fmt.Errorf("optimise store: %w", err)
	}
	done := 0
	for p, err := range s.AllValidPaths(ctx) {
		if err != nil {
			return saved, failed, fmt.Errorf("optimise store: %w", err)
		}
		if err := s.AddTempRoot(ctx, p); err != nil {
			return saved, failed, fmt.Errorf("optimise store: %w", err)
		}
		valid, err := s.isValid(ctx, p)
		if err != nil {
			return saved, failed, fmt.Errorf("optimise store: %w", err)
		}
		if !valid {
			continue
		}
		more, err := s.OptimisePath(ctx, p)
		saved += more
		if cause := context.Cause(ctx); cause != nil {
			return saved, failed, fmt.Errorf("optimise store: %w", cause)
		}
		if err != nil {
			failed++
			if errors.Is(err, fs.ErrNotExist) {
				err = fmt.Errorf("%w: `kiln store verify` says what is missing", err)
			}
			s.opts.Warn(err)
		}
		if done++; progress != nil {
			progress(done, saved)
		}
	}
	return saved, failed, nil
}
