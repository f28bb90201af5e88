// Command suite runs everything that `make test` promises: formatting, vet and
// builds for every platform, and the tests with the race detector, as the user
// who calls it and, when that is root, once more as an ordinary user who has
// nothing on the machine. It ends with a line "N passed, N failed, N skipped"
// and exits with 1 if anything failed.
//
// It expects that the machine has what the tests need. What is missing is not
// passed over: the tests that need it fail, and say what to install.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

func main() {
	if len(os.Args) > 1 && os.Args[1] == asUserArg {
		os.Exit(runAsUser(os.Args[2:]))
	}
	packages := flag.String("packages", "./...", "packages to test, separated by blanks")
	run := flag.String("run", "", "only the tests that match, as for go test")
	timeout := flag.Duration("timeout", 15*time.Minute, "limit for the tests of one package")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	failed, err := suite(ctx, strings.Fields(*packages), *run, *timeout)
	if err != nil {
		fmt.Fprintf(os.Stderr, "suite: %v\n", err)
	}
	if err != nil || failed {
		stop()
		os.Exit(1)
	}
}

// platforms are those that everything has to build for.
var platforms = []struct{ os, arch string }{{"linux", "amd64"}, {"linux", "arm64"}, {"darwin", "arm64"}}

// suite runs all checks and tests; failed says whether any of them failed.
func suite(ctx context.Context, packages []string, run string, timeout time.Duration) (failed bool, err error) {
	// Short, since the names of sockets below it have a limit.
	dir, err := os.MkdirTemp("", "kt")
	if err != nil {
		return false, err
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil {
		return false, err
	}
	s := &session{ctx: ctx, dir: dir, packages: packages, run: run, timeout: timeout}
	s.checks()
	if err := s.tests(); err != nil {
		return false, err
	}
	if ctx.Err() != nil {
		return false, errors.New("interrupted")
	}
	s.tally.summary(os.Stdout)
	return s.tally.failed > 0, nil
}

// A session is one run of the suite.
type session struct {
	ctx      context.Context
	dir      string
	packages []string
	run      string
	timeout  time.Duration
	tally    tally
}

// checks are what needs no test: format, vet, builds. Each counts as one test.
func (s *session) checks() {
	heading("format, vet, builds")
	s.check("gofmt", func() (string, error) {
		out, err := s.command(nil, "gofmt", "-l", ".").CombinedOutput()
		if err == nil && len(out) > 0 {
			err = errors.New("these files are not formatted; gofmt -w does it")
		}
		return string(out), err
	})
	for _, p := range platforms {
		env := []string{"CGO_ENABLED=0", "GOOS=" + p.os, "GOARCH=" + p.arch}
		for _, words := range [][]string{{"go", "vet", "./..."}, {"go", "build", "./..."}} {
			s.check(fmt.Sprintf("%s %s/%s", strings.Join(words[:2], " "), p.os, p.arch), func() (string, error) {
				out, err := s.command(env, words...).CombinedOutput()
				return string(out), err
			})
		}
	}
}

func (s *session) check(name string, do func() (string, error)) {
	if s.ctx.Err() != nil {
		return
	}
	begin := time.Now()
	out, err := do()
	s.tally.one(name, err, out, time.Since(begin))
}

// command is a command that ends when the suite is interrupted.
func (s *session) command(env []string, words ...string) *exec.Cmd {
	cmd := exec.CommandContext(s.ctx, words[0], words[1:]...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 10 * time.Second
	return cmd
}

// tests runs the tests of all packages once or twice.
func (s *session) tests() error {
	kiln := filepath.Join(s.dir, "kiln")
	s.check("kiln", func() (string, error) {
		out, err := s.command([]string{"CGO_ENABLED=0"}, "go", "build", "-buildvcs=false", "-o", kiln, "./cmd/kiln").CombinedOutput()
		return string(out), err
	})
	race := []string{"-race"}
	if _, err := exec.LookPath("gcc"); err != nil {
		s.tally.one("race detector", errors.New("it needs a C compiler: install gcc and libc6-dev"), "", 0)
		race = nil
	}
	env := []string{"KILN=" + kiln, "KILN_REQUIRE_NIX=1"}
	if os.Geteuid() != 0 {
		return s.round("an ordinary user", race, env, os.Geteuid())
	}
	// What takes many rounds of its own, or compares much, is shared between the two.
	env = append(env, "KILN_KILL_ROUNDS=25")
	if err := s.round("root", race, append(slices.Clone(env), "KILN_ORDINARY_FOLLOWS=1"), 0); err != nil {
		return err
	}
	if err := s.dropPure(); err != nil {
		return err
	}
	user, err := newUser(s.dir)
	if err != nil {
		return fmt.Errorf("prepare an ordinary user: %w", err)
	}
	if err := s.round("an ordinary user", append(race, "-exec="+user.exec), append(append(env, "KILN_ROOT_RAN=1"), user.env()...), user.id); err != nil {
		return err
	}
	s.check("no process is left", user.noProcesses)
	return nil
}

// dropPure leaves those packages away that only compute: no user makes a difference
// to them, and one round of their tests is enough.
func (s *session) dropPure() error {
	out, err := s.command(nil, append([]string{"go", "list"}, s.packages...)...).Output()
	if err != nil {
		return fmt.Errorf("list packages: %w", err)
	}
	s.packages = slices.DeleteFunc(strings.Fields(string(out)), func(pkg string) bool {
		_, name, _ := strings.Cut(pkg, "/kiln/")
		return slices.Contains(pure, name)
	})
	return nil
}

// pure are packages that neither look at files nor start anything.
var pure = []string{
	"nix", "nix/base32", "nix/aterm", "nix/drvjson", "nix/drvopts", "nix/jsonvalue", "nix/logline", "nix/narinfo", "nix/narlist", "nix/netrc",
	"nix/refscan", "nix/sign", "progress", "sandbox/program", "store/rewrite", "store/sigv4", "wire", "wire/serve", "wire/worker",
	"internal/archtest", "internal/docs", "internal/keylock", "internal/suite",
}

// round runs the tests of all packages as one user.
func (s *session) round(who string, flags, env []string, owner int) error {
	if s.ctx.Err() != nil {
		return nil
	}
	heading("tests as " + who)
	s.tally.who = who
	tmp := filepath.Join(s.dir, "t")
	if err := os.Mkdir(tmp, 0o755); err != nil {
		return err
	}
	if err := os.Chown(tmp, owner, -1); err != nil {
		return err
	}
	// Tests that run as root run parts of themselves as somebody else.
	if err := os.Chmod(tmp, os.ModeSticky|0o777); err != nil {
		return err
	}
	words := append([]string{"go", "test", "-json", "-count=1", "-vet=off", "-timeout=" + s.timeout.String()}, flags...)
	if s.run != "" {
		words = append(words, "-run="+s.run)
	}
	cmd := s.command(append(env, "TMPDIR="+tmp), append(words, s.packages...)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	failedBefore := s.tally.failed
	if err := s.tally.read(out, os.Stdout); err != nil {
		return err
	}
	if err := cmd.Wait(); err != nil && s.tally.failed == failedBefore && s.ctx.Err() == nil {
		s.tally.one("go test", err, "", 0)
	}
	s.check("nothing is left in TMPDIR", func() (string, error) { return leftIn(tmp) })
	return os.RemoveAll(tmp)
}

// leftIn tells what is in a directory that ought to be empty.
func leftIn(dir string) (string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) == 0 {
		return "", err
	}
	var b strings.Builder
	for _, e := range entries {
		fmt.Fprintln(&b, e.Name())
	}
	return b.String(), errors.New("tests left files")
}

func heading(title string) { fmt.Printf("== %s\n", title) }
