package gc

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/kilnbuild/kiln/internal/rmtree"
	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/store/local"
)

func init() { roles["collect"] = collectRole }

// collectRole says that it has the store open, waits for a word, and says when it has
// deleted the first object, and when all.
func collectRole(args []string) error {
	st, err := local.Open(context.Background(), options(args[0]))
	if err != nil {
		return err
	}
	fmt.Println("open")
	if _, err := io.ReadFull(os.Stdin, make([]byte, 1)); err != nil {
		return err
	}
	sweeping := sync.OnceFunc(func() { fmt.Println("sweeping") })
	if _, err := Collect(context.Background(), st, Options{batch: 2, Deleted: func([]string) { sweeping() }}); err != nil {
		return err
	}
	fmt.Println("collected")
	return st.Close()
}

// killRounds is how often a collector is killed; KILN_KILL_ROUNDS says otherwise.
const killRounds = 50

// killed is the number of objects that they would delete.
const killed = 40

// TestKilled kills collectors with SIGKILL at any moment. The store must be in order
// each time, with all that is needed, and the next collection must leave nothing of
// the rest.
func TestKilled(t *testing.T) {
	ctx := context.Background()
	rounds := killRounds
	if text := os.Getenv("KILN_KILL_ROUNDS"); text != "" {
		var err error
		if rounds, err = strconv.Atoi(text); err != nil {
			t.Fatal(err)
		}
	}
	dir := scratch(t)
	seed := filepath.Join(dir, "seed")
	st := open(t, seed)
	var kept nix.StorePath
	adding(t, st, func(add addFunc) {
		kept = add("kept", add("needed"))
		for i := range killed {
			add("x" + strconv.Itoa(i))
		}
	})
	link(t, st, st.Dir().Join(kept), "kept")
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	// Every other one is killed after it has begun to delete.
	longest := [2]time.Duration{30 * time.Millisecond, 10 * time.Millisecond}
	inSweep := 0
	for round := range rounds {
		root := filepath.Join(dir, "store")
		if out, err := exec.Command("cp", "-a", seed, root).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		sweeping := round % 2
		took := killCollector(t, root, sweeping == 1, rand.N(longest[sweeping]))
		if took > 0 { // it was not killed
			longest[sweeping] = took
		}
		st := open(t, root)
		if n, err := st.Verify(ctx, local.VerifyOptions{CheckContents: true, Problem: func(p local.Problem) { t.Error(p) }}); err != nil || n > 0 {
			t.Fatalf("round %d: %d problems, %v", round, n, err)
		}
		if left := len(valid(t, st)); left > 2 && left < killed+2 {
			inSweep++
		}
		mustCollect(t, st, Options{})
		if left := entries(t, st); len(left) != 2 || len(valid(t, st)) != 2 {
			t.Fatalf("round %d: left %q, valid %q", round, left, valid(t, st))
		}
		if err := st.Close(); err != nil {
			t.Fatal(err)
		}
		names, err := os.ReadDir(st.RealDir())
		if err != nil || len(names) != 3 { // the two, and the directory of links
			t.Fatalf("round %d: left in the store directory: %v, %v", round, names, err)
		}
		if err := rmtree.RemoveTree(root); err != nil {
			t.Fatal(err)
		}
	}
	if rounds >= 10 && inSweep == 0 {
		t.Error("none of the collectors was killed while it deleted")
	}
	t.Logf("%d of %d collectors were killed between two transactions", inSweep, rounds)
}

// killCollector kills a collector some time after it began, or began to delete, and gives
// how long it took if it had ended before.
func killCollector(t *testing.T, root string, sweeping bool, after time.Duration) time.Duration {
	t.Helper()
	cmd := exec.Command("/proc/self/exe", root)
	cmd.Env = append(os.Environ(), roleVar+"=collect")
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewReader(stdout)
	if line, err := lines.ReadString('\n'); line != "open\n" {
		t.Fatalf("the collector says %q, %v", line, err)
	}
	if _, err := stdin.Write([]byte{1}); err != nil {
		t.Fatal(err)
	}
	if sweeping {
		if line, err := lines.ReadString('\n'); line != "sweeping\n" {
			t.Fatalf("the collector says %q, %v", line, err)
		}
	}
	begin := time.Now()
	timer := time.AfterFunc(after, func() { cmd.Process.Kill() })
	defer timer.Stop()
	line, _ := lines.ReadString('\n')
	if line == "sweeping\n" {
		line, _ = lines.ReadString('\n')
	}
	took := time.Since(begin)
	err = cmd.Wait()
	if line == "collected\n" {
		return took
	}
	if err == nil {
		t.Fatal("the collector ended and said nothing")
	}
	return 0
}
