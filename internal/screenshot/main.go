// Command screenshot records what kiln shows on a terminal while it builds: it
// runs real builds of a small graph of derivations in a store of its own, on a
// terminal of a fixed size, and draws what a person sees then.
//
//	screenshot KILN DIRECTORY
//
// makes in DIRECTORY terminal.svg, a moment in the middle of a build that goes
// well; terminal-failure.svg, one of a build in which a builder fails; and
// terminal.txt, text of both in the middle and at the end.
package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/kilnbuild/kiln/internal/rmtree"
)

// The size of the terminal in cells.
const (
	columns = 100
	lines   = 30
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: screenshot KILN DIRECTORY")
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := write(ctx, os.Args[1], os.Args[2], pause)
	stop()
	if err != nil {
		fmt.Fprintf(os.Stderr, "screenshot: %v\n", err)
		os.Exit(1)
	}
}

// pause is how long builders sleep for each thing that they pretend to do.
const pause = 400 * time.Millisecond

// scenes are what is recorded, each with the picture that is made of it.
var scenes = []struct {
	picture, title string
	fails          bool
}{
	{"terminal.svg", "A build that goes well", false},
	{"terminal-failure.svg", "A build in which a builder fails, with --keep-going", true},
}

// write makes the files.
func write(ctx context.Context, kiln, dir string, pause time.Duration) error {
	var text bytes.Buffer
	for _, scene := range scenes {
		rec, err := take(ctx, kiln, pause, scene.fails)
		if err != nil {
			return fmt.Errorf("%s: %w", scene.picture, err)
		}
		if failed := rec.exit != 0; failed != scene.fails {
			return fmt.Errorf("%s: kiln exits with %d after this:\n%s", scene.picture, rec.exit, rec.end())
		}
		middle := rec.busiest()
		if err := os.WriteFile(filepath.Join(dir, scene.picture), middle.svg("kiln build"), 0o644); err != nil {
			return err
		}
		fmt.Fprintf(&text, "%s, in the middle:\n\n%s\n%s, at the end:\n\n%s\n",
			scene.title, indent(middle), scene.title, indent(rec.end()))
	}
	return os.WriteFile(filepath.Join(dir, "terminal.txt"), append(bytes.TrimRight(text.Bytes(), "\n"), '\n'), 0o644)
}

func indent(s *screen) string {
	return "    " + strings.ReplaceAll(strings.TrimSuffix(s.String(), "\n"), "\n", "\n    ") + "\n"
}

// take records one build.
func take(ctx context.Context, kiln string, pause time.Duration, fails bool) (rec *recording, err error) {
	if kiln, err = filepath.Abs(kiln); err != nil {
		return nil, err
	}
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		return nil, fmt.Errorf("find a shell for the builders: %w: install busybox-static", err)
	}
	work, err := os.MkdirTemp("", "kiln-screenshot-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, rmtree.RemoveTree(work)) }()
	// Build users have to reach their directories in it.
	if err := os.Chmod(work, 0o755); err != nil {
		return nil, err
	}
	s := &session{kiln: kiln, dir: work, shell: busybox}
	drv, err := s.addGraph(ctx, pause, fails)
	if err != nil {
		return nil, err
	}
	return s.build(ctx, "--keep-going", "--max-jobs", "4", drv)
}

// session is a store of its own, with kiln to work on it.
type session struct {
	kiln, dir, shell string
}

// command is kiln with arguments, in surroundings that the user's settings have
// no part in. When ctx ends kiln may clean up.
func (s *session) command(ctx context.Context, args ...string) *exec.Cmd {
	args = append(args, "--store", filepath.Join(s.dir, "store"), "--option", "sandbox", "true", "--option", "substituters", "",
		"--option", "sandbox-paths", "/bin/sh="+s.shell)
	cmd := exec.CommandContext(ctx, s.kiln, args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + s.dir, "TMPDIR=" + s.dir, "NIX_CONF_DIR=" + s.dir, "NIX_USER_CONF_FILES=",
		"TERM=xterm-256color", "LC_ALL=C.UTF-8",
	}
	return cmd
}

// build builds on a terminal and records it. That something did not build is no
// error.
func (s *session) build(ctx context.Context, args ...string) (*recording, error) {
	rec, err := record(s.command(ctx, append([]string{"build"}, args...)...), columns, lines)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	return rec, err
}

// addGraph adds the derivations and gives the one that needs all others.
func (s *session) addGraph(ctx context.Context, pause time.Duration, fails bool) (string, error) {
	files, err := graph(ctx, pause, fails)
	if err != nil {
		return "", err
	}
	var last string
	for _, f := range files {
		path := filepath.Join(s.dir, f.name)
		if err := os.WriteFile(path, f.text, 0o644); err != nil {
			return "", err
		}
		cmd := s.command(ctx, "derivation", "add", path)
		cmd.Stderr = os.Stderr
		out, err := cmd.Output()
		if err != nil {
			return "", fmt.Errorf("add derivation %s: %w", f.name, err)
		}
		last = strings.TrimSpace(string(out))
	}
	return last, nil
}
