package local

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/kilnbuild/kiln/internal/testenv"
	"github.com/kilnbuild/kiln/nix"
)

// worker does everything that leaves traces, without end.
func worker(args []string) error {
	ctx := context.Background()
	o := ChrootOptions(args[0])
	o.AutoOptimise, o.FsyncMetadata = true, false
	s, err := Open(ctx, o)
	if err != nil {
		return err
	}
	fmt.Println("ready")
	go func() { // the test may die before it kills us
		io.Copy(io.Discard, os.Stdin)
		os.Exit(1)
	}()
	shared := bytes.Repeat([]byte("the same in many objects\n"), 50)
	for i := 0; ; i++ {
		name := fmt.Sprintf("%d-%d", os.Getpid(), i)
		if err := work(ctx, s, o, name, shared); err != nil {
			return err
		}
		fmt.Println("worked")
	}
}

func work(ctx context.Context, s *Store, o Options, name string, shared []byte) error {
	p, err := s.AddText(ctx, name, []byte(name), nil)
	if err != nil {
		return err
	}
	temp, err := s.TempDir(ctx)
	if err != nil {
		return err
	}
	tree := filepath.Join(temp.Path(), "tree")
	for i := range 5 {
		if err := errors.Join(os.MkdirAll(fmt.Sprintf("%s/%d/%d", tree, i, i), 0o755),
			os.WriteFile(fmt.Sprintf("%s/%d/%d/x", tree, i, i), append(shared, byte(i)), 0o644)); err != nil {
			return err
		}
	}
	if _, err := s.AddTree(ctx, name, tree, nix.Recursive, nix.SHA256); err != nil {
		return err
	}
	// As a build does it.
	out, err := nix.MakeStorePath(s.Dir(), "output:out", nix.HashBytes(nix.SHA256, []byte(name)), "built")
	if err != nil {
		return err
	}
	locks, err := s.LockPaths(ctx, []nix.StorePath{out}, nil)
	if err != nil {
		return err
	}
	defer locks.Release()
	chroot, builds := s.RealPath(p)+".chroot", filepath.Join(o.StateDir, "builds", name)
	for _, dir := range []string{chroot, builds} {
		if err := errors.Join(s.Note(TransientTree, dir), os.MkdirAll(dir+"/root/a", 0o755)); err != nil {
			return err
		}
	}
	log, err := s.CreateLog(p)
	if err != nil {
		return err
	}
	fmt.Fprintln(log, name)
	if err := errors.Join(log.Close(), s.Canonicaliser(Owner{UID: os.Geteuid()}).Tree(tree), s.Place(ctx, tree, out)); err != nil {
		return err
	}
	info := nix.PathInfo{Path: out, References: []nix.StorePath{p}}
	if info.NARHash, info.NARSize, err = hashTree(s.RealPath(out)); err != nil {
		return err
	}
	if err := s.Register(ctx, []Registration{{Info: info}}); err != nil {
		return err
	}
	for _, dir := range []string{chroot, builds} {
		if err := errors.Join(os.RemoveAll(dir), s.Done(TransientTree, dir)); err != nil {
			return err
		}
	}
	return temp.Close()
}

func init() { roles["worker"] = worker }

// TestT28Kill kills processes that use a store at any instant. The next one to open
// the store leaves it tidy.
func TestT28Kill(t *testing.T) {
	testKill(t, 40)
}

func TestT28KillAsOrdinaryUser(t *testing.T) {
	if testenv.AsOrdinaryUser(t) {
		testKill(t, 15)
	}
}

func testKill(t *testing.T, rounds int) {
	if testing.Short() {
		rounds = 5
	}
	root := tempDir(t)
	var objects int
	var took time.Duration // one round of work, from the start on
	for round := range rounds {
		var workers []*exec.Cmd
		var said io.Reader
		for range 1 + round%2 {
			cmd := player(t, "worker", root)
			cmd.Stderr = os.Stderr
			_, err := cmd.StdinPipe()
			out, oerr := cmd.StdoutPipe()
			if err := errors.Join(err, oerr); err != nil {
				t.Fatal(err)
			}
			said = out
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			workers = append(workers, cmd)
			if round%4 != 3 { // else it is killed while it opens the store
				if _, err := io.ReadFull(out, make([]byte, 6)); err != nil {
					t.Fatalf("the worker says nothing: %v", err)
				}
			}
		}
		if took == 0 {
			begin := time.Now()
			if _, err := io.ReadFull(said, make([]byte, 7)); err != nil {
				t.Fatalf("the worker does nothing: %v", err)
			}
			took = time.Since(begin)
		}
		time.Sleep(rand.N(3 * took))
		for _, cmd := range workers {
			if err := cmd.Process.Kill(); err != nil {
				t.Errorf("round %d: the worker ended by itself: %v", round, err)
			}
			cmd.Wait()
		}
		o := options(t, root)
		s, err := Open(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		if left := names(t, filepath.Join(o.StateDir, "builds")); len(left) > 0 {
			t.Errorf("build directories are left: %v", left)
		}
		if n, err := s.Verify(t.Context(), VerifyOptions{CheckContents: true, Problem: func(p Problem) { t.Error(p) }}); err != nil || n > 0 {
			t.Errorf("Verify: %d, %v", n, err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		checkTidy(t, o)
		objects = len(names(t, o.RealStoreDir))
		if t.Failed() {
			t.Fatalf("after round %d", round)
		}
	}
	t.Logf("%d objects", objects)
	if objects < rounds {
		t.Errorf("only %d objects were made: the workers did not get to work", objects)
	}
}
