package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

// limit is how long one command may take.
const limit = 10 * time.Minute

// measureArg makes this program the small process that starts what is measured.
// A child begins with the greatest memory of the process that forked it, and
// this one's must not count as the subject's.
const measureArg = "measure-child"

// A cost is what one measurement took.
type cost struct {
	Wall time.Duration
	CPU  time.Duration // user and system, of the whole tree of processes
	RSS  int64         // bytes, the most that the largest process of the tree had
	Idle int64         // bytes that a daemon has with nothing to do
}

// measureChild runs a command and writes its cost to descriptor 3. It gives the
// command's exit status. The command's words come after the root directory that it
// is to have, "" for this one, and the work directory.
func measureChild(args []string) int {
	root, dir, words := args[0], args[1], args[2:]
	// Programs refuse a store below a directory that has not the usual mode.
	syscall.Umask(0o022)
	if root != "" {
		if err := enterRoot(root, dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	cmd := exec.Command(words[0], words[1:]...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	// Daemons are told to end, and this process goes on until they have.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGTERM)
	begin := time.Now()
	err := cmd.Run()
	wall := time.Since(begin)
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	state := cmd.ProcessState
	c := cost{Wall: wall, CPU: state.UserTime() + state.SystemTime()}
	if usage, ok := state.SysUsage().(*syscall.Rusage); ok {
		c.RSS = int64(usage.Maxrss) << 10 // Linux counts KiB
	}
	if err := json.NewEncoder(os.NewFile(3, "cost")).Encode(c); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return state.ExitCode()
}

// cost measures a command, in the given root directory or in this one, with env
// beside what all have. What it prints goes to stdout, or nowhere. A command that
// fails has no cost.
func (b *bench) cost(root string, env []string, stdout io.Writer, words ...string) (cost, error) {
	p, err := b.launch(root, env, stdout, words...)
	if err != nil {
		return cost{}, err
	}
	<-p.ended
	c, err := p.stop()
	return c, err
}

// A process is one that is measured while this one goes on.
type process struct {
	stop  func() (cost, error) // ends it, and tells what it took; to be called once
	ended chan struct{}        // closed when it has ended
}

// launch is cost for a command that is told to end by stop, at the latest.
func (b *bench) launch(root string, env []string, stdout io.Writer, words ...string) (*process, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	cmd := exec.CommandContext(ctx, self, append([]string{measureArg, root, b.dir}, words...)...)
	cmd.Env, cmd.Dir = append(b.env(), env...), "/"
	cmd.ExtraFiles = []*os.File{w}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	var stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = stdout, &stderr
	err = cmd.Start()
	w.Close()
	if err != nil {
		r.Close()
		cancel()
		return nil, err
	}
	p := &process{ended: make(chan struct{})}
	go func() {
		err = cmd.Wait()
		close(p.ended)
	}()
	p.stop = func() (cost, error) {
		defer r.Close()
		defer cancel()
		told := false
		select {
		case <-p.ended:
		default:
			told = true
			syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM)
			<-p.ended
		}
		if ctx.Err() != nil {
			return cost{}, fmt.Errorf("not done after %v: %s", limit, lastLines(stderr.Bytes()))
		}
		if err != nil && !told { // who is told to end may do so by the signal
			return cost{}, fmt.Errorf("%w: %s", err, lastLines(stderr.Bytes()))
		}
		var c cost
		return c, json.NewDecoder(r).Decode(&c)
	}
	return p, nil
}

// A row has the measurements of an item.
type row struct {
	item    item
	unit    int
	units   int               // builds, whatever the figures are divided by
	costs   map[string][]cost // by subject
	alone   []cost
	failure error
}

// measure measures an item with all subjects in turns. After a failure it goes
// no further: there is nothing to compare.
func (b *bench) measure(it item, subjects []*subject) row {
	if it.chore != nil {
		return b.measureChore(it, subjects)
	}
	if it.errand != nil {
		return b.measureErrand(it, subjects)
	}
	r := row{item: it, unit: it.unit(b.scale), units: it.scaled(b.scale), costs: map[string][]cost{}}
	f, err := b.fixture(it)
	if err != nil {
		r.failure = fmt.Errorf("fixture: %w", err)
		return r
	}
	defer removeTree(f.store)
	if it.valid {
		if _, err := b.output(subjects[0].build(f.store, it, f.drvs)...); err != nil {
			r.failure = fmt.Errorf("fixture: %w", err)
			return r
		}
	}
	var want map[string]string
	rounds := b.rounds
	if it.rounds > 0 {
		rounds = min(rounds, it.rounds)
	}
	for round := range rounds {
		for i := range subjects {
			s := subjects[(i+round)%len(subjects)]
			c, hashes, err := b.once(s, it, f, round == 0)
			if err == nil && want != nil && !maps.Equal(want, hashes) {
				err = errors.New("the store's content is not the other program's")
			}
			if err != nil {
				r.failure = fmt.Errorf("%s: %w", s.name, err)
				return r
			}
			want = hashes
			r.costs[s.name] = append(r.costs[s.name], c)
			fmt.Fprintf(os.Stderr, "%-12s round %d %-10s %v\n", it.name, round+1, s.name, c.Wall.Round(100*time.Microsecond))
		}
		if it.alone == "" {
			continue
		}
		c, err := b.measureAlone(it)
		if err != nil {
			r.failure = fmt.Errorf("the builder alone: %w", err)
			return r
		}
		r.alone = append(r.alone, c)
	}
	return r
}

// once is one measurement of a subject, in a store of its own. It gives the
// hashes of all that is valid then; with verify it has real Nix check the files.
func (b *bench) once(s *subject, it item, f *fixture, verify bool) (cost, map[string]string, error) {
	store, remove, err := b.freshCopy(f.store)
	if err != nil {
		return cost{}, nil, err
	}
	defer remove()
	var sum cost
	for range max(1, it.runs) {
		c, err := b.cost(s.root, nil, nil, s.build(store, it, f.drvs)...)
		if err != nil {
			return cost{}, nil, err
		}
		sum.Wall, sum.CPU, sum.RSS = sum.Wall+c.Wall, sum.CPU+c.CPU, max(sum.RSS, c.RSS)
	}
	hashes, err := b.hashes(store)
	if err == nil && verify {
		_, err = b.output("nix-store", "--store", store, "--verify", "--check-contents")
	}
	if err == nil {
		err = b.allValid(store, f.drvs, hashes)
	}
	return sum, hashes, err
}

// allValid checks that every output of the derivations is valid.
func (b *bench) allValid(store string, drvs []string, hashes map[string]string) error {
	out, err := b.output(append([]string{"nix-store", "--store", store, "--query", "--outputs"}, drvs...)...)
	if err != nil {
		return err
	}
	for line := range bytes.Lines(out) {
		if path := string(bytes.TrimSpace(line)); hashes[path] == "" {
			return fmt.Errorf("%s was not built", path)
		}
	}
	return nil
}

// measureAlone runs a builder without sandbox and store.
func (b *bench) measureAlone(it item) (cost, error) {
	script, err := b.aloneScript(it)
	if err != nil {
		return cost{}, err
	}
	// As long as a store path's name: a builder may use it.
	out := b.path("tmp", strings.Repeat("0", 32)+"-alone")
	defer removeTree(out)
	return b.cost("", []string{"out=" + out, "seed=" + b.path("seed")}, nil, b.busybox, "sh", "-e", "-c", script)
}
