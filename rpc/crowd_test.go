package rpc

import (
	"context"
	"fmt"
	"net"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	kilnv1 "github.com/kilnbuild/kiln/api/kiln/v1"
	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/store/storetest"
)

// A waiting builder builds nothing until it is let, and prints something then: what is of
// interest here is who waits for it.
type waiting struct{ let chan struct{} }

func (w waiting) Build(ctx context.Context, req *nix.BuildRequest) ([]nix.BuildResult, error) {
	select {
	case <-w.let:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	p := req.Paths[0].Path
	req.Log.Event(nix.Event{Kind: nix.EventStarted, Path: p})
	req.Log.BuildLog(p, []byte("printed\n"))
	req.Log.Event(nix.Event{Kind: nix.EventFinished, Path: p, Status: nix.StatusBuilt})
	return make([]nix.BuildResult, len(req.Paths)), nil
}

// crowded is a server without a sandbox, for tests with very many builds.
func crowded(t *testing.T, b nix.Builder) (*Server, *Client) {
	t.Helper()
	s, err := New(Config{
		Enter: at(keeper{storetest.NewMemory(nix.DefaultStoreDir)}, b), StoreDir: nix.DefaultStoreDir, Dir: t.TempDir(),
		Warn: func(err error) { t.Log("warning:", err) },
	})
	if err != nil {
		t.Fatal(err)
	}
	// The name of a socket may not be long, and that of the test's directory may be.
	dir, err := os.MkdirTemp("", "kiln-rpc-")
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("unix", dir+"/socket")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		if err := s.Serve(l, PeerCredentials()); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		s.Close()
		serving.Wait()
		os.RemoveAll(dir)
	})
	c, err := connect(Address{"unix", l.Addr().String()}, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return s, c
}

// ask begins a detached build that waits, and leaves it.
func ask(t *testing.T, c *Client, id string) error {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	target := &kilnv1.Target{What: &kilnv1.Target_StorePath{StorePath: "/nix/store/" + strings.Repeat("0", 32) + "-x.drv"}}
	stream, err := c.Executor.Build(ctx, &kilnv1.BuildRequest{Id: id, Detached: true, Targets: []*kilnv1.Target{target}})
	if err == nil {
		_, err = stream.Recv()
	}
	return err
}

// TestManyQueued has very many builds wait. They are 1,000, and 10,000 with
// KILN_MANY_BUILDS=1.
func TestManyQueued(t *testing.T) {
	n := 1000
	if os.Getenv("KILN_MANY_BUILDS") == "1" {
		n = 10000
	}
	w := waiting{make(chan struct{})}
	s, c := crowded(t, w)
	memory := func() uint64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc + m.StackInuse
	}
	before := memory()
	var asking sync.WaitGroup
	for part := range 10 {
		asking.Go(func() {
			for i := part; i < n; i += 10 {
				if err := ask(t, c, fmt.Sprint("build-", i)); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	asking.Wait()
	if each := int64(memory()-before) / int64(n); each > 16<<10 {
		t.Errorf("a build that waits takes %d bytes", each)
	}
	seen := make(map[string]bool)
	list := &kilnv1.ListBuildsRequest{PageSize: 1000, States: []kilnv1.BuildState{kilnv1.BuildState_BUILD_STATE_QUEUED}}
	for {
		reply, err := c.Executor.ListBuilds(t.Context(), list)
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range reply.Builds {
			seen[b.Id] = true
		}
		if list.PageToken = reply.NextPageToken; list.PageToken == "" {
			break
		}
	}
	if len(seen) != n {
		t.Errorf("%d builds are listed, want %d", len(seen), n)
	}
	if _, err := c.Executor.CancelBuild(t.Context(), &kilnv1.CancelBuildRequest{Id: "build-0"}); err != nil {
		t.Error(err)
	}
	close(w.let)
	if _, err := c.Executor.Drain(t.Context(), &kilnv1.DrainRequest{}); err != nil {
		t.Error(err)
	}
	states := make(map[kilnv1.BuildState]int)
	for _, b := range s.builds.all() {
		states[b.state()]++
	}
	if states[kilnv1.BuildState_BUILD_STATE_SUCCEEDED] != n-1 || states[kilnv1.BuildState_BUILD_STATE_CANCELLED] != 1 {
		t.Errorf("they ended as %v", states)
	}
}

// TestReconnecting has a client come and go again and again while its build prints: it
// misses nothing, and leaves nothing.
func TestReconnecting(t *testing.T) {
	w := waiting{make(chan struct{})}
	s, c := crowded(t, w)
	if err := ask(t, c, "x"); err != nil {
		t.Fatal(err)
	}
	b, err := s.builds.find("x")
	if err != nil {
		t.Fatal(err)
	}
	address := Address{"unix", strings.TrimPrefix(c.conn.Target(), "unix://")}
	before := runtime.NumGoroutine()
	var got strings.Builder
	var after uint64
	const rounds, lines = 50, 20
	for round := range rounds {
		again, err := connect(address, nil)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		stream, err := again.Executor.WatchBuild(ctx, &kilnv1.WatchBuildRequest{Id: "x", AfterEvent: after, LogOnly: true})
		if err != nil {
			t.Fatal(err)
		}
		for i := range lines {
			b.journal.append(logEvent(fmt.Sprintf("%d.%d\n", round, i)))
		}
		// It goes as soon as it has heard anything, or a little later.
		for range 1 + round%2 {
			e, err := stream.Recv()
			if err != nil {
				t.Fatal(err)
			}
			got.Write(e.GetLog().GetData())
			after = e.Number
			if events, _ := b.journal.counts(); events == after {
				break
			}
		}
		cancel()
		again.Close()
	}
	await(t, "goroutines of connections to end", func() bool { return runtime.NumGoroutine() <= before+2 })
	b.journal.append(logEvent("over\n"))
	close(w.let)
	stream, err := c.Executor.WatchBuild(t.Context(), &kilnv1.WatchBuildRequest{Id: "x", AfterEvent: after, LogOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	rest, err := collect(stream)
	if err != nil {
		t.Fatal(err)
	}
	var want strings.Builder
	for round := range rounds {
		for i := range lines {
			fmt.Fprintf(&want, "%d.%d\n", round, i)
		}
	}
	if all := got.String() + rest.log; all != want.String()+"over\nprinted\n" {
		t.Errorf("%d bytes came, want %d", len(all), want.Len())
	}
}
