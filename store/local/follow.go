package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"time"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/store"
)

// How often those who follow a log look whether there is more of it: often at
// first, and after a while of silence as seldom as a person does not notice.
const (
	followOften  = 10 * time.Millisecond
	followSeldom = 160 * time.Millisecond
)

// FollowLog is BuildLog for a log that may not be complete: at its end, reading
// waits until there is more, and ends when the log has been closed, or the process
// that wrote it has died. If there is no log, FollowLog waits for one, and calls
// onWait, if not nil, once before. What is read or waited for ends with ctx.
//
// Logs that Nix writes have no mark by which one could see that they are not
// complete. They end where they end at the moment.
func (s *Store) FollowLog(ctx context.Context, drv nix.StorePath, onWait func()) (io.ReadCloser, error) {
	for delay := followOften; ; delay = min(2*delay, followSeldom) {
		log, err := s.BuildLog(ctx, drv)
		switch {
		case err == nil:
			if f, ok := log.(*os.File); ok {
				return &followedLog{ctx: ctx, file: f}, nil
			}
			return log, nil
		case errors.Is(err, store.ErrNotFound):
			if onWait != nil {
				onWait()
				onWait = nil
			}
		case errors.Is(err, fs.ErrPermission) && delay == followOften:
			// It is just being begun, or it is nothing for us.
		default:
			return nil, err
		}
		if err := pause(ctx, delay); err != nil {
			return nil, fmt.Errorf("wait for build log: %w", err)
		}
	}
}

// followedLog reads a plain log.
type followedLog struct {
	ctx   context.Context
	file  *os.File
	begun bool // it was seen between its creation and its being locked
	ended bool // nobody writes to it any more
}

func (l *followedLog) Close() error { return l.file.Close() }

func (l *followedLog) Read(p []byte) (int, error) {
	for delay := followOften; ; delay = min(2*delay, followSeldom) {
		n, err := l.file.Read(p)
		if n > 0 || !errors.Is(err, io.EOF) || l.ended {
			return n, err
		}
		// What was written before its end may have come after our look.
		if l.ended, err = l.isComplete(); err != nil {
			return 0, fmt.Errorf("follow build log: %w", err)
		}
		if l.ended {
			continue
		}
		if err := pause(l.ctx, delay); err != nil {
			return 0, fmt.Errorf("follow build log: %w", err)
		}
	}
}

// isComplete tells whether nobody has the log open for writing. A log that is seen
// before it is locked has the permissions of one that is being begun; if its
// writer died just then, it has them for ever.
func (l *followedLog) isComplete() (bool, error) {
	free, err := tryFlock(l.file, lockShared)
	if !free || err != nil {
		return false, err
	}
	info, err := l.file.Stat()
	if err := errors.Join(err, flock(l.file, unlocked)); err != nil {
		return false, err
	}
	if info.Mode().Perm() != begunLogMode || l.begun {
		return true, nil
	}
	l.begun = true
	return false, nil
}

// pause waits for a while, or until ctx ends.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
