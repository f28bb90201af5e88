package service

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/conf"
	"github.com/kilnbuild/kiln/nix/logline"
	"github.com/kilnbuild/kiln/store/local"
	"github.com/kilnbuild/kiln/store/storetest"
	"github.com/kilnbuild/kiln/wire"
	"github.com/kilnbuild/kiln/wire/worker"
)

func untrusted(c *Config) { c.ForceTrust = worker.NotTrusted }

// TestOwnSettings has clients set options side by side: each builds by its own.
func TestOwnSettings(t *testing.T) {
	h := newHost(t, "timeout = 5\nsandbox = true", untrusted)
	var mu sync.Mutex
	var got []string
	h.setBuild(func(_ *local.Store, s *conf.Settings) nix.Builder {
		return buildFunc(func(_ context.Context, req *nix.BuildRequest) ([]nix.BuildResult, error) {
			mu.Lock()
			defer mu.Unlock()
			got = append(got, fmt.Sprintf("%v %v %v %v %v", s.MaxJobs, s.Cores, s.KeepFailed, s.Timeout, s.Sandbox))
			return make([]nix.BuildResult, len(req.Paths)), nil
		})
	})
	build := &worker.BuildRequest{Operation: worker.OpBuildPaths, Paths: []nix.DerivedPath{nix.Opaque("00000000000000000000000000000000-x")}}
	one, two, plain := h.connect(), h.connect(), h.connect()
	var said []string
	listen := func(text string) { said = append(said, text) }
	one.Next, two.Next = listen, listen
	one.must(&worker.SetOptions{Verbosity: 3, MaxBuildJobs: 3, BuildCores: 4, KeepFailed: true,
		Overrides: []worker.Override{{Name: "timeout", Value: "7"}, {Name: "sandbox", Value: "false"}}})
	two.must(&worker.SetOptions{Verbosity: 3, MaxBuildJobs: 1<<64 - 1, Overrides: []worker.Override{{Name: "sandbox", Value: "true"}}})
	for _, g := range []*guest{one, two, plain} {
		g.must(build)
		g.d.Uint64()
	}
	want := []string{"3 4 true 7s true", "2147483647 0 false 5s true", "1 0 false 5s true"}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	warning := "\x1b[35;1mwarning:\x1b[0m ignoring the client-specified setting 'sandbox', because it is a restricted setting and you are not a trusted user\n"
	if d := cmp.Diff([]string{warning}, said); d != "" {
		t.Errorf("said (-want +got):\n%s", d)
	}
}

// TestRoots wants what a client adds to be kept for as long as the client is connected,
// and while somebody holds its lease, but not longer.
func TestRoots(t *testing.T) {
	var release func()
	h := newHost(t, "", nil)
	h.setBuild(func(st *local.Store, _ *conf.Settings) nix.Builder {
		return buildFunc(func(_ context.Context, req *nix.BuildRequest) ([]nix.BuildResult, error) {
			release = st.Hold()
			return make([]nix.BuildResult, len(req.Paths)), nil
		})
	})
	roots := func() string {
		t.Helper()
		var all strings.Builder
		dir := filepath.Join(h.root, "state", "temproots")
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			all.WriteString(read(t, filepath.Join(dir, e.Name())))
		}
		return all.String()
	}
	eventually := func(what string, ok func() bool) {
		t.Helper()
		for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("%s: %q", what, roots())
			}
		}
	}
	const p, q = nix.StorePath("00000000000000000000000000000000-p"), nix.StorePath("00000000000000000000000000000001-q")
	one, two := h.connect(), h.connect()
	one.must(&worker.PathRequest{Operation: worker.OpAddTempRoot, Path: p})
	one.d.Uint64()
	two.must(&worker.PathRequest{Operation: worker.OpAddTempRoot, Path: q})
	two.d.Uint64()
	two.must(&worker.BuildRequest{Operation: worker.OpBuildPaths, Paths: []nix.DerivedPath{nix.Opaque(p)}})
	two.d.Uint64()
	if all := roots(); !strings.Contains(all, string(p)) || !strings.Contains(all, string(q)) {
		t.Errorf("roots: %q", all)
	}
	one.conn.Close()
	eventually("the root of who has left", func() bool { return !strings.Contains(roots(), string(p)) })
	two.conn.Close()
	time.Sleep(50 * time.Millisecond)
	if !strings.Contains(roots(), string(q)) {
		t.Error("the root of a lease that is held has gone")
	}
	release()
	release()
	eventually("the root of a lease that was held", func() bool { return !strings.Contains(roots(), string(q)) })
}

// TestReplaced deletes the store below the server, with a client that stays.
func TestReplaced(t *testing.T) {
	h := newHost(t, "", nil)
	object := storetest.Text(t, nix.DefaultStoreDir, "object", "content")
	first := h.connect()
	h.addText(first)
	if !first.valid(object.Info.Path) {
		t.Fatal("it was not added")
	}
	for _, dir := range []string{"store", "state"} {
		if err := os.RemoveAll(filepath.Join(h.root, dir)); err != nil {
			t.Fatal(err)
		}
	}
	second := h.connect()
	if second.valid(object.Info.Path) {
		t.Error("what was deleted is valid")
	}
	h.addText(second)
	if !second.valid(object.Info.Path) {
		t.Error("it was not added to the new store")
	}
	if n := h.opened.Load(); n != 2 {
		t.Errorf("%d stores were opened", n)
	}
	third := h.connect()
	if !third.valid(object.Info.Path) || h.opened.Load() != 2 {
		t.Errorf("the new store was opened again: %d", h.opened.Load())
	}
}

// TestMigrated has another program migrate the store below the server, as Nix does: it writes
// the file with the version anew.
func TestMigrated(t *testing.T) {
	h := newHost(t, "", nil)
	object := storetest.Text(t, nix.DefaultStoreDir, "object", "content")
	first := h.connect()
	h.addText(first)
	schema := filepath.Join(h.root, "state", "db", "schema")
	if err := os.WriteFile(schema+".new", []byte(read(t, schema)), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(schema+".new", schema); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if g := h.connect(); !g.valid(object.Info.Path) {
			t.Error("what was there before is not valid")
		}
	}
	if n := h.opened.Load(); n != 2 {
		t.Errorf("%d stores were opened", n)
	}
	if !first.valid(object.Info.Path) {
		t.Error("a client that stayed does not see the store any more")
	}
}

// addText adds the same object each time.
func (h *host) addText(g *guest) {
	g.t.Helper()
	g.must(&worker.AddToStore{Name: "object", Method: nix.Text, Algorithm: nix.SHA256}, func(w io.Writer) { io.WriteString(w, "content") })
	g.d.PathInfo()
}

// TestReload has clients that connect later find other settings.
func TestReload(t *testing.T) {
	h := newHost(t, "timeout = 1", nil)
	var mu sync.Mutex
	var seen []time.Duration
	h.setBuild(func(_ *local.Store, s *conf.Settings) nix.Builder {
		mu.Lock()
		defer mu.Unlock()
		seen = append(seen, s.Timeout)
		return nil
	})
	set := func(text string) error {
		h.loads.Lock()
		h.text = text
		h.loads.Unlock()
		return h.Reload()
	}
	h.connect()
	if err := set("timeout = x"); err == nil {
		t.Error("nonsense was read")
	}
	h.connect()
	if err := set("timeout = 2"); err != nil {
		t.Error(err)
	}
	h.connect()
	h.connect()
	mu.Lock()
	defer mu.Unlock()
	if d := cmp.Diff([]time.Duration{time.Second, time.Second, 2 * time.Second, 2 * time.Second}, seen); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	if n := h.opened.Load(); n != 2 {
		t.Errorf("%d stores were opened", n)
	}
}

// TestTooMany has more clients connect than may.
func TestTooMany(t *testing.T) {
	h := newHost(t, "", func(c *Config) { c.MaxConnections = 3 })
	var all []*guest
	for range 3 {
		all = append(all, h.connect())
	}
	if _, err := h.dial(); !strings.Contains(told(err), "serves 3 clients already") {
		t.Errorf("one too many was told: %v", err)
	}
	h.addText(all[0])
	all[0].conn.Close()
	for end := time.Now().Add(10 * time.Second); ; {
		if g, err := h.dial(); err == nil {
			h.addText(g)
			return
		} else if time.Now().After(end) {
			t.Fatal(err)
		}
	}
}

// TestShares has a user who is not trusted take all connections that one may have.
func TestShares(t *testing.T) {
	h := newHost(t, "", func(c *Config) { c.MaxConnections, c.ForceTrust = 4, worker.NotTrusted })
	one := h.connect()
	h.connect()
	if _, err := h.dial(); !strings.Contains(told(err), "has 2 connections to the daemon, which is as many as one user may have") {
		t.Errorf("one too many was told: %v", err)
	}
	one.conn.Close()
	for end := time.Now().Add(10 * time.Second); ; {
		if _, err := h.dial(); err == nil {
			return
		} else if time.Now().After(end) {
			t.Fatal(err)
		}
	}
}

// TestBudget has one client send so much that there is no room for another's request, and
// is none the worse for it.
func TestBudget(t *testing.T) {
	h := newHost(t, "", func(c *Config) { c.Limits.Wire.Budget = wire.NewBudget(1 << 20) })
	greedy, other := h.connect(), h.connect()
	text := strings.Repeat("x", 1<<20)
	greedy.e.Uint64(uint64(worker.OpAddTextToStore))
	greedy.e.Text("object")
	greedy.e.Uint64(1 << 20)
	greedy.e.Write([]byte(text[:1<<20-1])) // it never sends the last byte
	greedy.e.Flush()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		g := h.connect()
		err := g.ask(&worker.AddTextToStore{Name: "object", Content: []byte(text[:1<<18])})
		g.conn.Close()
		if strings.Contains(told(err), "received from all clients together") {
			break
		} else if time.Now().After(end) {
			t.Fatalf("there was room: %v", err)
		}
	}
	h.addText(other) // what is small needs none
	greedy.conn.Close()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		g := h.connect()
		err := g.ask(&worker.AddTextToStore{Name: "object", Content: []byte(text[:1<<18])})
		g.conn.Close()
		if err == nil {
			return
		} else if time.Now().After(end) {
			t.Fatal(err)
		}
	}
}

func TestRefused(t *testing.T) {
	h := newHost(t, "", func(c *Config) {
		c.Open = func(context.Context, *conf.Settings) (Workshop, error) { return nil, errors.New("the disk is gone") }
	})
	if _, err := h.dial(); !strings.Contains(told(err), "the disk is gone") {
		t.Errorf("told: %v", err)
	}
}

// TestCancelledAtOnce ends what goes on when the server's context does.
func TestCancelledAtOnce(t *testing.T) {
	begun, why := make(chan struct{}), make(chan error, 1)
	h := newHost(t, "", nil)
	h.setBuild(func(*local.Store, *conf.Settings) nix.Builder {
		return buildFunc(func(ctx context.Context, _ *nix.BuildRequest) ([]nix.BuildResult, error) {
			close(begun)
			<-ctx.Done()
			why <- context.Cause(ctx)
			return nil, context.Cause(ctx)
		})
	})
	g := h.connect()
	worker.WriteRequest(g.e, &worker.BuildRequest{Operation: worker.OpBuildPaths, Paths: []nix.DerivedPath{nix.Opaque("00000000000000000000000000000000-x")}})
	g.e.Flush()
	<-begun
	h.Drain()
	select {
	case err := <-why:
		t.Errorf("draining ended the build: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	h.cancel()
	<-why
}

// TestEveryFrameParses has many goroutines print and report while replies are sent.
func TestEveryFrameParses(t *testing.T) {
	const goroutines, messages = 8, 1250
	var late sync.WaitGroup
	h := newHost(t, "", nil)
	h.setBuild(func(*local.Store, *conf.Settings) nix.Builder {
		return buildFunc(func(_ context.Context, req *nix.BuildRequest) ([]nix.BuildResult, error) {
			var first sync.WaitGroup
			for i := range goroutines {
				first.Add(1)
				late.Go(func() {
					once := sync.OnceFunc(first.Done)
					drv := nix.StorePath(fmt.Sprintf("0000000000000000000000000000000%d-x.drv", i))
					for n := range messages {
						if n == messages/2 {
							once() // from here on the reply may be sent
						}
						switch n % 4 {
						case 0:
							req.Log.Event(nix.Event{Kind: nix.EventStarted, Path: drv})
						case 1:
							req.Log.BuildLog(drv, fmt.Appendf(nil, "%d %d %s\n", i, n, strings.Repeat("x", n)))
						case 2:
							req.Log.Event(nix.Event{Kind: nix.EventNotice, Path: drv, Message: "notice"})
						case 3:
							req.Log.Event(nix.Event{Kind: nix.EventFinished, Path: drv})
						}
					}
				})
			}
			first.Wait()
			return make([]nix.BuildResult, len(req.Paths)), nil
		})
	})
	g := h.connect()
	var lines, other int
	g.Activity = func(m *logline.Message) {
		if m.Action == logline.Result && m.Result == logline.BuildLogLine {
			if lines++; !strings.HasSuffix(m.Fields[0].Text, "x") && !strings.HasSuffix(m.Fields[0].Text, " ") {
				t.Errorf("line %q", m.Fields[0].Text)
			}
			return
		}
		other++
	}
	g.Next = func(string) { other++ }
	for range 10 {
		g.must(&worker.BuildRequest{Operation: worker.OpBuildPaths, Paths: []nix.DerivedPath{nix.Opaque("00000000000000000000000000000000-x")}})
		if n := g.d.Uint64(); n != 1 {
			t.Fatalf("reply %#x", n)
		}
		h.addText(g)
	}
	late.Wait()
	if lines == 0 || lines+other < 10_000 {
		t.Errorf("%d lines and %d other messages", lines, other)
	}
	h.addText(g)
}

// TestImportsAborted aborts a hundred imports in the middle of an archive, by an error
// of the archive and by leaving. After an error the same connection goes on; nothing is
// left in the store, and no memory is lost.
func TestImportsAborted(t *testing.T) {
	h := newHost(t, "", nil)
	g := h.connect()
	const size = 4 << 20
	good := storetest.Archive(t, storetest.Node{Content: strings.Repeat("0123456789abcdef", size/16)})
	info := &nix.PathInfo{Path: "00000000000000000000000000000000-big", NARHash: nix.HashBytes(nix.SHA256, good), NARSize: int64(len(good))}
	request := &worker.AddToStoreNar{Info: info, DontCheckSigs: true}
	memory := func() int64 {
		debug.FreeOSMemory()
		return resident(t)
	}
	var before int64
	for i := range 100 {
		if i == 10 {
			before = memory()
		}
		if i%4 == 3 { // the client leaves
			leaving := h.connect()
			worker.WriteRequest(leaving.e, request)
			leaving.e.Uint64(uint64(size)) // a frame of that size, of which a part comes
			leaving.e.Write(good[:size/2])
			leaving.e.Flush()
			leaving.conn.Close()
			continue
		}
		err := g.ask(request, func(w io.Writer) {
			switch i % 4 {
			case 0: // it ends too early
				w.Write(good[:size/2])
			case 1: // it is no archive from the middle on
				w.Write(good[:size/2])
				w.Write(make([]byte, size/2))
				io.WriteString(w, "nonsense")
				w.Write(good)
			case 2: // it is another one
				w.Write(storetest.Archive(t, storetest.Node{Content: "another"}))
			}
		})
		if told(err) == "" {
			t.Fatalf("import %d: %v", i, err)
		}
		if g.valid(info.Path) {
			t.Fatalf("import %d: it is valid", i)
		}
	}
	if after := memory(); after > before+16<<20 { // of 200 MiB that were sent
		t.Errorf("%d bytes of memory, and then %d", before, after)
	}
	g.must(request, func(w io.Writer) { w.Write(good) })
	if !g.valid(info.Path) {
		t.Error("it cannot be imported any more")
	}
	g.must(&worker.VerifyStore{CheckContents: true})
	if g.d.Bool() {
		t.Error("the store is damaged")
	}
	entries, err := os.ReadDir(filepath.Join(h.root, "store"))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") || e.Name() == string(info.Path) || strings.Contains(e.Name(), "-tmp-") {
			continue
		}
		t.Errorf("left: %s", e.Name())
	}
}

// resident is how many bytes of memory this process has; 0 where the system does not tell.
func resident(t *testing.T) int64 {
	t.Helper()
	text, err := os.ReadFile("/proc/self/statm")
	if errors.Is(err, fs.ErrNotExist) {
		return 0
	}
	var total, pages int64
	if _, serr := fmt.Sscan(string(text), &total, &pages); err != nil || serr != nil {
		t.Fatal(err, serr)
	}
	return pages * int64(os.Getpagesize())
}
