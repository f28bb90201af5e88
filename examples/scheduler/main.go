// Command scheduler spreads derivations over executors: each goes to the one with the most
// free slots, with its inputs, and to another one when its executor goes away.
//
//	scheduler -store ROOT -executor unix:///a -executor unix:///b DERIVATION…
//
// It is an example of how to use package rpc, and small on purpose: it keeps what it knows
// in memory, and asks before each placement how busy everybody is.
package main

import (
	"context"
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	kilnv1 "github.com/kilnbuild/kiln/api/kiln/v1"
	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/rpc"
	"github.com/kilnbuild/kiln/store/local"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

type addresses []rpc.Address

func (a *addresses) String() string { return fmt.Sprint(*a) }

func (a *addresses) Set(text string) error {
	parsed, err := rpc.ParseAddress(text)
	*a = append(*a, parsed)
	return err
}

func main() {
	var executors addresses
	root := flag.String("store", "", "the root of the store that has the derivations")
	flag.Var(&executors, "executor", "an executor, unix:///path or tcp://host:port; may be given again")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, *root, executors, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

// scheduler knows executors and what it has given to them.
type scheduler struct {
	store *local.Store

	mu        sync.Mutex
	executors []*executor
}

type executor struct {
	address rpc.Address
	client  *rpc.Client // nil while there is no connection
	given   int         // builds of ours that have not ended
	failed  time.Time   // when it was last found to be away
}

// rest is how long an executor that was away is not asked.
const rest = 2 * time.Second

func run(ctx context.Context, root string, executors addresses, drvs []string) error {
	opts := local.ChrootOptions(root)
	opts.ReadOnly = true
	st, err := local.Open(ctx, opts)
	if err != nil {
		return err
	}
	defer st.Close()
	s := &scheduler{store: st}
	for _, a := range executors {
		s.executors = append(s.executors, &executor{address: a})
	}
	var wg sync.WaitGroup
	errs := make([]error, len(drvs))
	for i, text := range drvs {
		drv, err := st.Dir().Parse(text)
		if err != nil {
			return err
		}
		wg.Go(func() { errs[i] = s.build(ctx, drv) })
	}
	wg.Wait()
	for _, x := range s.executors {
		if x.client != nil {
			x.client.Close()
		}
	}
	return errors.Join(errs...)
}

// attempts is how often a build is placed before it counts as one that nobody can build.
const attempts = 20

// build places a derivation until it is built, or until it is clear that another executor
// would not help.
func (s *scheduler) build(ctx context.Context, drv nix.StorePath) error {
	for range attempts {
		x, err := s.place(ctx)
		if err != nil {
			return err
		}
		if x == nil { // nobody is there at the moment
			select {
			case <-time.After(time.Second):
				continue
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		}
		fmt.Printf("%-24s → %s\n", drv.Name(), x.address.Target)
		result, err := s.buildAt(ctx, x, drv)
		s.release(x, err)
		switch {
		case err != nil && ctx.Err() == nil && away(err):
			fmt.Printf("%-24s moves: %v\n", drv.Name(), err)
			continue
		case err != nil:
			return fmt.Errorf("%s: %w", drv.Name(), err)
		case result.Status.Success():
			fmt.Printf("%-24s ✓ %s in %v on %s\n", drv.Name(), result.Outputs["out"].OutPath, result.Stop.Sub(result.Start).Round(time.Millisecond), x.address.Target)
			return nil
		case result.Why().AnotherMachineHelps() && len(s.executors) > 1:
			fmt.Printf("%-24s moves: %s\n", drv.Name(), result.Why().Kind)
		default:
			return fmt.Errorf("%s: %s", drv.Name(), result.Message)
		}
	}
	return fmt.Errorf("%s: no executor can build it", drv.Name())
}

// buildAt brings a derivation to an executor and builds it there.
func (s *scheduler) buildAt(ctx context.Context, x *executor, drv nix.StorePath) (*nix.BuildResult, error) {
	if err := x.client.Bring(ctx, s.store, drv); err != nil {
		return nil, err
	}
	req := &nix.BuildRequest{Paths: []nix.DerivedPath{nix.Built(drv, nix.AllOutputs)}, Limits: nix.Limits{Timeout: time.Hour}}
	m := x.client.Message(req)
	m.Id, m.Labels = strings.ToLower(rand.Text()), map[string]string{"scheduler": "example"}
	// An executor that is gone is noticed at once, and not asked again and again: there
	// are others.
	stream, err := x.client.Executor.Build(ctx, m)
	for err == nil {
		var e *kilnv1.BuildEvent
		if e, err = stream.Recv(); err == nil && e.GetEnded() != nil {
			results, err := x.client.Results(e.GetEnded(), req)
			if err != nil {
				return nil, err
			}
			return &results[0], nil
		}
	}
	return nil, err
}

// away tells whether an error says that the executor, and not the build, is the trouble.
func away(err error) bool {
	var interrupted *rpc.InterruptedError
	code := status.Code(err)
	return errors.As(err, &interrupted) || code == codes.Unavailable || code == codes.ResourceExhausted
}

// place gives the executor with the most free slots, nil if none answers.
func (s *scheduler) place(ctx context.Context) (*executor, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var best *executor
	most := -1 << 30
	for _, x := range s.executors {
		free, err := x.free(ctx)
		if err != nil {
			if x.failed.IsZero() {
				fmt.Printf("%s is away\n", x.address.Target)
			}
			x.failed = time.Now()
			continue
		}
		if free > most {
			best, most = x, free
		}
	}
	if best != nil {
		best.given++
	}
	return best, context.Cause(ctx)
}

// free is how many slots an executor has free, less than 0 if builds wait for one.
func (x *executor) free(ctx context.Context) (int, error) {
	if time.Since(x.failed) < rest {
		return 0, errors.New("it was away a moment ago")
	}
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if x.client == nil {
		client, err := rpc.Dial(ctx, x.address, nil)
		if err != nil {
			return 0, err
		}
		x.client = client
	}
	caps, err := x.client.Executor.GetCapabilities(ctx, &kilnv1.GetCapabilitiesRequest{})
	if err != nil || caps.Draining {
		return 0, errors.Join(err, errors.New("it takes no builds"))
	}
	x.failed = time.Time{}
	return int(caps.Slots) - max(x.given, int(caps.Running+caps.Queued)), nil
}

// release says that an executor has done what it could for a build.
func (s *scheduler) release(x *executor, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if x.given--; err != nil && away(err) {
		x.failed = time.Now()
	}
}
