package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/aterm"
	"github.com/kilnbuild/kiln/nix/logline"
	"github.com/kilnbuild/kiln/store"
	"github.com/kilnbuild/kiln/store/local"
	"github.com/kilnbuild/kiln/store/storetest"
	"github.com/kilnbuild/kiln/wire/worker"
)

func contains(s, part string) bool { return strings.Contains(s, part) }

func newBytes(p []byte) io.Reader { return bytes.NewReader(p) }

const none nix.StorePath = "00000000000000000000000000000000-none"

func path(op worker.Op, p nix.StorePath) worker.Request {
	return &worker.PathRequest{Operation: op, Path: p}
}

// TestVersions has clients of all versions do what each can.
func TestVersions(t *testing.T) {
	for v := worker.Oldest; v <= worker.Newest; v++ {
		t.Run(v.String(), func(t *testing.T) { version(t, v) })
	}
	t.Run("features", func(t *testing.T) { version(t, worker.Newest, worker.Features()...) })
}

func version(t *testing.T, v worker.Version, features ...string) {
	dep := storetest.Text(t, nix.DefaultStoreDir, "dep", "dependency")
	s := newStore(t, dep)
	drv := newDerivation(t, s, "works")
	p := connect(t, t.Context(), Config{Store: s, Builder: builderOf(t, s), Trust: worker.Trusted}, v, features...)
	defer p.bye()
	minor := v.Minor()

	p.must(&worker.SetOptions{Verbosity: 3})
	p.must(path(worker.OpIsValidPath, dep.Info.Path))
	if !p.d.Bool() {
		t.Error("not valid")
	}
	p.must(path(worker.OpQueryPathInfo, none))
	if p.d.Bool() {
		t.Error("valid")
	}
	p.must(path(worker.OpQueryPathInfo, dep.Info.Path))
	p.d.Bool()
	if d := cmp.Diff(&dep.Info, p.d.UnkeyedPathInfo(dep.Info.Path), cmpopts.EquateEmpty(), cmp.AllowUnexported(nix.Hash{})); d != "" {
		t.Errorf("path info (-want +got):\n%s", d)
	}
	p.must(path(worker.OpNarFromPath, dep.Info.Path))
	archive := make([]byte, len(dep.NAR))
	if _, err := io.ReadFull(p.d, archive); err != nil || !bytes.Equal(archive, dep.NAR) {
		t.Errorf("archive: %v", err)
	}

	// Adding by content.
	tree := storetest.Built(t, nix.DefaultStoreDir, "tree", false)
	file := storetest.Archive(t, storetest.Node{Content: "a file"})
	for _, c := range []struct {
		r          worker.AddToStore
		dump, file []byte
	}{
		{worker.AddToStore{Name: "flat", Method: nix.Flat, Algorithm: nix.SHA256}, file, []byte("a file")},
		{worker.AddToStore{Name: "tree", Method: nix.Recursive, Algorithm: nix.SHA256}, tree.NAR, nil},
		{worker.AddToStore{Name: "tree1", Method: nix.Recursive, Algorithm: nix.SHA1}, tree.NAR, nil},
		{worker.AddToStore{Name: "text", Method: nix.Text, Algorithm: nix.SHA256, References: []nix.StorePath{dep.Info.Path}}, nil, []byte("a text")},
		{worker.AddToStore{Name: "git", Method: nix.Git, Algorithm: nix.SHA1}, tree.NAR, nil},
	} {
		dump := c.dump
		if minor >= 25 && c.file != nil {
			dump = c.file
		}
		if minor < 25 && c.r.Method != nix.Flat && c.r.Method != nix.Recursive {
			continue
		}
		p.must(&c.r, write(dump))
		var added nix.StorePath
		if minor >= 25 {
			added = p.d.PathInfo().Path
		} else {
			added = p.d.StorePath()
		}
		info, err := s.PathInfo(t.Context(), added)
		if err != nil || added.Name() != c.r.Name || info.CA.Method != c.r.Method {
			t.Errorf("add %s: %+v, %v", c.r.Name, info, err)
		}
	}
	if minor < 25 {
		p.must(&worker.AddTextToStore{Name: "text", Content: []byte("a text"), References: []nix.StorePath{dep.Info.Path}})
		want := storetest.Text(t, nix.DefaultStoreDir, "text", "a text", dep.Info.Path).Info.Path
		if got := p.d.StorePath(); got != want {
			t.Errorf("text is at %s", got)
		}
	}

	// Adding what is known.
	one := storetest.Built(t, nix.DefaultStoreDir, "one", true, dep.Info.Path)
	rest := one.NAR
	p.Data = func(n int) ([]byte, error) {
		n = min(n, len(rest), 100) // as they like
		part := rest[:n]
		rest = rest[n:]
		return part, nil
	}
	nar := &worker.AddToStoreNar{Info: &one.Info, DontCheckSigs: true}
	if minor >= 23 || minor < 21 {
		p.must(nar, write(one.NAR))
	} else {
		p.must(nar)
	}
	many := []storetest.Object{one, storetest.Built(t, nix.DefaultStoreDir, "two", false, one.Info.Path)}
	if minor >= 32 {
		p.must(&worker.AddMultipleToStore{DontCheckSigs: true}, objects(many))
		one = many[1]
	}
	if _, err := s.PathInfo(t.Context(), one.Info.Path); err != nil {
		t.Error(err)
	}

	// Building.
	var lines []string
	p.Activity = func(m *logline.Message) {
		if m.Action == logline.Result && m.Result == logline.BuildLogLine {
			lines = append(lines, m.Fields[0].Text)
		}
	}
	wanted := []nix.DerivedPath{nix.Built(drv, nix.AllOutputs)}
	p.must(&worker.BuildRequest{Operation: worker.OpBuildPaths, Paths: wanted})
	if n := p.d.Uint64(); n != 1 {
		t.Errorf("built: %d", n)
	}
	if d := cmp.Diff([]string{"this is the log of works", "and its second line"}, lines); d != "" {
		t.Errorf("log (-want +got):\n%s", d)
	}
	if minor >= 34 {
		p.must(&worker.BuildRequest{Operation: worker.OpBuildPathsWithResults, Paths: wanted})
		results := p.d.KeyedBuildResults()
		if len(results) != 1 || results[0].Status != nix.StatusBuilt || results[0].Outputs["out"].OutPath.Name() != "works" {
			t.Errorf("results %+v, %v", results, p.d.Err())
		}
	}
	p.must(&worker.QueryMissing{Paths: []nix.DerivedPath{nix.Opaque(none), wanted[0]}})
	if m := p.d.Missing(); len(m.WillBuild) != 0 || len(m.Unknown) != 1 {
		t.Errorf("missing %+v", m)
	}
	p.usable()
}

// objects is the body of AddMultipleToStore.
func objects(all []storetest.Object) func(io.Writer) {
	return func(w io.Writer) {
		out := worker.NewObjectWriter(w, nix.DefaultStoreDir, len(all))
		for i := range all {
			out.Next(&all[i].Info).Write(all[i].NAR)
		}
		out.Close()
	}
}

// TestLacking asks a store for all that it cannot do.
func TestLacking(t *testing.T) {
	dep := storetest.Text(t, nix.DefaultStoreDir, "dep", "dependency")
	bare := struct{ store.Store }{newStore(t, dep)}
	p := connect(t, t.Context(), Config{Store: bare, Trust: worker.Trusted}, worker.Newest, worker.Features()...)
	defer p.bye()
	const lacking = "does not support the operation"
	for _, r := range []worker.Request{
		path(worker.OpQueryReferrers, dep.Info.Path), path(worker.OpQueryValidDerivers, dep.Info.Path), path(worker.OpAddTempRoot, dep.Info.Path),
		&worker.EmptyRequest{Operation: worker.OpQueryAllValidPaths}, &worker.EmptyRequest{Operation: worker.OpOptimiseStore},
		&worker.EmptyRequest{Operation: worker.OpFindRoots}, &worker.QueryPathFromHashPart{HashPart: dep.Info.Path.HashPart()},
		&worker.AddSignatures{Path: dep.Info.Path}, &worker.AddIndirectRoot{Link: "/x"}, &worker.AddPermRoot{Path: dep.Info.Path, Link: "/x"},
		&worker.CollectGarbage{Action: worker.GCDeleteDead, WholeStore: true}, &worker.VerifyStore{},
		&worker.RegisterDrvOutput{Realisation: &nix.Realisation{ID: nix.DrvOutput{Drv: none + ".drv", Output: "out"}, OutPath: none}},
	} {
		p.refused(lacking, r)
	}
	p.refused(lacking, &worker.AddBuildLog{Drv: none + ".drv"}, write(bytes.Repeat([]byte("log\n"), 1<<20)))
	p.refused("does not build", &worker.BuildRequest{Operation: worker.OpBuildPaths})
	p.refused("no substituter", path(worker.OpEnsurePath, none))
	p.refused("not a derivation", path(worker.OpQueryDerivationOutputMap, dep.Info.Path))
	p.refused("not valid", path(worker.OpNarFromPath, none))
	p.refused("ignore liveness", &worker.CollectGarbage{WholeStore: true, IgnoreLiveness: true})
	p.refused("invalid hash part", &worker.QueryPathFromHashPart{HashPart: "x"})
	p.must(&worker.QuerySubstitutablePaths{Paths: []nix.StorePath{none}})
	if all := p.d.PathSet(); len(all) > 0 {
		t.Errorf("substitutable: %v", all)
	}
	p.must(&worker.QueryValidPaths{Paths: []nix.StorePath{none, dep.Info.Path}, Substitute: true})
	if all := p.d.PathSet(); len(all) != 1 {
		t.Errorf("valid: %v", all)
	}
	p.must(path(worker.OpEnsurePath, dep.Info.Path))
	p.d.Uint64()
	p.usable()
}

// TestUntrusted has a client try what it may not do.
func TestUntrusted(t *testing.T) {
	s := newStore(t)
	drv := newDerivation(t, s, "works")
	var asked []*nix.BuildRequest
	b := buildFunc(func(_ context.Context, req *nix.BuildRequest) ([]nix.BuildResult, error) {
		asked = append(asked, req)
		return make([]nix.BuildResult, len(req.Paths)), nil
	})
	for _, trust := range []worker.Trust{worker.NotTrusted, worker.TrustUnknown} {
		asked = nil
		p := connect(t, t.Context(), Config{Store: s, Builder: b, Trust: trust}, worker.Newest)
		if p.server.Trust != trust {
			t.Errorf("told to be %v", p.server.Trust)
		}
		o := storetest.Built(t, nix.DefaultStoreDir, "unsigned", false)
		p.refused("signature", &worker.AddToStoreNar{Info: &o.Info, DontCheckSigs: true}, write(o.NAR))
		p.refused("signature", &worker.AddMultipleToStore{DontCheckSigs: true}, objects([]storetest.Object{o, o}))
		p.refused("repairing", &worker.AddToStoreNar{Info: &o.Info, Repair: true}, write(o.NAR))
		p.refused("repairing", &worker.AddMultipleToStore{Repair: true}, objects([]storetest.Object{o}))
		p.refused("repairing", &worker.AddToStore{Name: "x", Method: nix.Flat, Algorithm: nix.SHA256, Repair: true}, write([]byte("x")))
		wanted := []nix.DerivedPath{nix.Built(drv, nix.AllOutputs)}
		p.refused("repairing", &worker.BuildRequest{Operation: worker.OpBuildPaths, Paths: wanted, Mode: nix.BuildRepair})
		p.refused("privileged to repair", &worker.VerifyStore{Repair: true})
		p.refused("privileged to add logs", &worker.AddBuildLog{Drv: drv}, write([]byte("log")))
		p.refused("privileged to create perm roots", &worker.AddPermRoot{Path: drv, Link: "/x"})
		p.refused("privileged to register", &worker.RegisterDrvOutput{Legacy: &worker.LegacyRealisation{ID: "sha256:" + strings.Repeat("0", 64) + "!out", OutPath: none}})
		basic := &nix.BasicDerivation{Name: "works", System: "x", Builder: "y", Outputs: map[nix.OutputName]nix.DerivationOutput{"out": {Kind: nix.InputAddressed, Path: none}}}
		p.refused("input-addressed", &worker.BuildDerivation{Drv: drv, Basic: basic})
		if len(asked) > 0 {
			t.Errorf("the builder was asked for %v", asked[0].Paths)
		}
		basic.Outputs["out"] = nix.DerivationOutput{Kind: nix.Floating, Method: nix.Recursive, Algorithm: nix.SHA256}
		p.must(&worker.BuildDerivation{Drv: drv, Basic: basic})
		p.d.BuildResult("")
		if len(asked) != 1 || asked[0].Paths[0].Path == drv {
			t.Error("a floating derivation is not built under the name that follows from it")
		}
		p.usable()
		p.bye()
	}
}

// TestErrors has errors of stores and builders reach clients.
func TestErrors(t *testing.T) {
	s := newStore(t)
	drv := newDerivation(t, s, "works")
	fail := buildFunc(func(_ context.Context, req *nix.BuildRequest) ([]nix.BuildResult, error) {
		if req.Mode == nix.BuildCheck {
			return nil, errors.New("the machine is lost")
		}
		return []nix.BuildResult{{Path: req.Paths[0], Status: nix.StatusHashMismatch, Message: "hash mismatch"}}, nil
	})
	for _, v := range []worker.Version{1<<8 | 25, 1<<8 | 26, worker.Newest} {
		p := connect(t, t.Context(), Config{Store: s, Builder: fail}, v)
		wanted := []nix.DerivedPath{nix.Built(drv, nix.AllOutputs)}
		p.refused("the machine is lost", &worker.BuildRequest{Operation: worker.OpBuildPaths, Paths: wanted, Mode: nix.BuildCheck})
		err := p.ask(&worker.BuildRequest{Operation: worker.OpBuildPaths, Paths: wanted})
		var failure *worker.Error
		if !errors.As(err, &failure) || !contains(failure.Message, "hash mismatch") {
			t.Errorf("%v: %v", v, err)
		} else if v.Minor() < 26 && failure.Status != 102 {
			t.Errorf("%v: status %d", v, failure.Status)
		}
		p.usable()
		p.bye()
	}
}

// TestBadRequests has requests that cannot be read end the connection, after a word.
func TestBadRequests(t *testing.T) {
	for name, send := range map[string]func(*worker.Encoder){
		"operation": func(e *worker.Encoder) { e.Uint64(999) },
		"path":      func(e *worker.Encoder) { e.Uint64(1); e.Text("/etc/passwd") },
		"length":    func(e *worker.Encoder) { e.Uint64(1); e.Uint64(1 << 60) },
		"mode":      func(e *worker.Encoder) { e.Uint64(9); e.Uint64(0); e.Uint64(3) },
	} {
		p := connect(t, t.Context(), Config{Store: newStore(t)}, worker.Newest)
		send(p.e)
		p.e.Flush()
		var failure *worker.Error
		if err := p.messages(); !errors.As(err, &failure) {
			t.Errorf("%s: %v", name, err)
		}
		if err := <-p.ended; err == nil {
			t.Errorf("%s: served on", name)
		}
	}
}

// The store of machines can do these.
var (
	_ PathLister     = (*local.Store)(nil)
	_ HashPartFinder = (*local.Store)(nil)
	_ DeriverSource  = (*local.Store)(nil)
	_ Signer         = (*local.Store)(nil)
)

// TestLegacyIDs has outputs whose path follows from their content named as clients
// before Nix 2.35 want it: they register what they read.
func TestLegacyIDs(t *testing.T) {
	dep := storetest.Text(t, nix.DefaultStoreDir, "dep", "dependency")
	basic := &nix.BasicDerivation{Name: "x", System: "x", Builder: "y", Env: map[string]string{"out": nix.Placeholder("out")},
		Outputs: map[nix.OutputName]nix.DerivationOutput{"out": {Kind: nix.Floating, Method: nix.Recursive, Algorithm: nix.SHA256}}}
	drv, _, _, err := aterm.DerivationPath(nix.DefaultStoreDir, &nix.Derivation{BasicDerivation: *basic})
	if err != nil {
		t.Fatal(err)
	}
	b := buildFunc(func(_ context.Context, req *nix.BuildRequest) ([]nix.BuildResult, error) {
		return []nix.BuildResult{{Path: req.Paths[0], Outputs: map[nix.OutputName]nix.Realisation{
			"out": {ID: nix.DrvOutput{Drv: drv, Output: "out"}, OutPath: dep.Info.Path},
		}}}, nil
	})
	p := connect(t, t.Context(), Config{Store: newStore(t), Builder: b}, 1<<8|28)
	p.must(&worker.BuildDerivation{Drv: drv, Basic: basic})
	p.d.Uint64()
	p.d.Text()
	want, err := aterm.NewHasher(nix.DefaultStoreDir, nil, aterm.HasherOptions{}).LegacyRealisationID(t.Context(), &nix.Derivation{BasicDerivation: *basic}, "out")
	if err != nil {
		t.Fatal(err)
	}
	if n, id, r := p.d.Uint64(), p.d.Text(), p.d.LegacyRealisation(); n != 1 || id != want || r.ID != want || r.OutPath != dep.Info.Path {
		t.Errorf("%d outputs, %s, %+v; want %s", n, id, r, want)
	}
	p.bye()
}

// waiter is a builder that says when it begins, and waits for its context to end.
func waiter(begun chan<- struct{}, why chan<- error) nix.Builder {
	return buildFunc(func(ctx context.Context, req *nix.BuildRequest) ([]nix.BuildResult, error) {
		close(begun)
		<-ctx.Done()
		why <- context.Cause(ctx)
		return nil, context.Cause(ctx)
	})
}

func TestClientLeaves(t *testing.T) {
	begun, why := make(chan struct{}), make(chan error, 1)
	s := newStore(t)
	p := connect(t, t.Context(), Config{Store: s, Builder: waiter(begun, why)}, worker.Newest)
	worker.WriteRequest(p.e, &worker.BuildRequest{Operation: worker.OpBuildPaths, Paths: []nix.DerivedPath{nix.Opaque(none)}})
	p.e.Flush()
	<-begun
	p.conn.Close()
	if err := <-why; err != ErrClientGone {
		t.Errorf("the build ended with %v", err)
	}
	<-p.ended
}

func TestContextEnds(t *testing.T) {
	over := errors.New("it is over")
	for _, building := range []bool{false, true} {
		ctx, cancel := context.WithCancelCause(t.Context())
		begun, why := make(chan struct{}), make(chan error, 1)
		p := connect(t, ctx, Config{Store: newStore(t), Builder: waiter(begun, why)}, worker.Newest)
		if building {
			worker.WriteRequest(p.e, &worker.BuildRequest{Operation: worker.OpBuildPaths, Paths: []nix.DerivedPath{nix.Opaque(none)}})
			p.e.Flush()
			<-begun
		}
		begin := time.Now()
		cancel(over)
		if err := <-p.ended; !errors.Is(err, over) {
			t.Errorf("building %v: %v", building, err)
		}
		if building {
			if err := <-why; err != over {
				t.Errorf("the build ended with %v", err)
			}
		}
		if took := time.Since(begin); took > 5*time.Second {
			t.Errorf("building %v: it took %v", building, took)
		}
	}
}

// TestSlowClient has a builder print more than the client reads. The builder must
// not wait, and what waits for the client has a bound.
func TestSlowClient(t *testing.T) {
	printed := make(chan struct{})
	line := []byte(strings.Repeat("x", 999) + "\n")
	const lines = 100_000
	b := buildFunc(func(_ context.Context, req *nix.BuildRequest) ([]nix.BuildResult, error) {
		for range lines {
			req.Log.BuildLog(none+".drv", line)
		}
		close(printed)
		return []nix.BuildResult{{Path: req.Paths[0]}}, nil
	})
	for _, stays := range []bool{true, false} {
		printed = make(chan struct{})
		ctx, cancel := context.WithCancel(t.Context())
		p := connect(t, ctx, Config{Store: newStore(t), Builder: b}, worker.Newest)
		worker.WriteRequest(p.e, &worker.BuildRequest{Operation: worker.OpBuildPaths, Paths: []nix.DerivedPath{nix.Opaque(none)}})
		p.e.Flush()
		select {
		case <-printed:
		case <-time.After(time.Minute):
			t.Fatal("the builder waits for the client")
		}
		if !stays { // it never reads: the daemon's writes are blocked
			cancel()
			if err := <-p.ended; !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
			continue
		}
		var got, lost int
		p.Activity = func(m *logline.Message) {
			if m.Action == logline.Result && m.Result == logline.BuildLogLine {
				got++
			}
		}
		p.Next = func(text string) {
			var n int
			if _, err := fmt.Sscanf(text, "%d messages were left out", &n); err != nil {
				t.Errorf("said: %s", text)
			}
			lost += n
		}
		if err := p.messages(); err != nil {
			t.Fatal(err)
		}
		p.d.Uint64()
		if got == 0 || got == lines || got+lost != lines {
			t.Errorf("%d lines came, %d were left out", got, lost)
		}
		p.usable()
		p.bye()
		cancel()
	}
}

// TestManyLogs has many goroutines print, also when the request is long over.
func TestManyLogs(t *testing.T) {
	var late sync.WaitGroup
	b := buildFunc(func(_ context.Context, req *nix.BuildRequest) ([]nix.BuildResult, error) {
		var inTime sync.WaitGroup
		for i := range 8 {
			drv := nix.StorePath(fmt.Sprintf("0000000000000000000000000000000%d-x.drv", i))
			work := func() {
				req.Log.Event(nix.Event{Kind: nix.EventStarted, Path: drv})
				for n := range 200 {
					req.Log.BuildLog(drv, fmt.Appendf(nil, "%d %d\n", i, n))
					req.Log.Event(nix.Event{Kind: nix.EventWarning, Message: "careful"})
				}
				req.Log.Event(nix.Event{Kind: nix.EventFinished, Path: drv})
			}
			inTime.Go(work)
			late.Go(func() { time.Sleep(time.Millisecond); work() })
		}
		inTime.Wait()
		return []nix.BuildResult{{Path: req.Paths[0]}}, nil
	})
	p := connect(t, t.Context(), Config{Store: newStore(t), Builder: b}, worker.Newest)
	next := map[string]int{}
	p.Activity = func(m *logline.Message) {
		if m.Action == logline.Result && m.Result == logline.BuildLogLine {
			next[strings.Fields(m.Fields[0].Text)[0]]++
		}
	}
	for range 20 {
		p.must(&worker.BuildRequest{Operation: worker.OpBuildPaths, Paths: []nix.DerivedPath{nix.Opaque(none)}})
		if n := p.d.Uint64(); n != 1 {
			t.Fatalf("reply %#x", n)
		}
	}
	late.Wait()
	if len(next) != 8 || next["3"] < 20*200 {
		t.Errorf("lines: %v", next)
	}
	p.usable()
	p.bye()
}

func TestSetOptions(t *testing.T) {
	var got *worker.SetOptions
	cfg := Config{Store: newStore(t), SetOptions: func(_ context.Context, o *worker.SetOptions, log nix.LogSink) (nix.Builder, error) {
		got = o
		log.Event(nix.Event{Kind: nix.EventWarning, Message: "ignoring it"})
		return waiter(nil, nil), nil
	}}
	p := connect(t, t.Context(), cfg, worker.Newest)
	var said string
	p.Next = func(text string) { said += text }
	want := &worker.SetOptions{KeepGoing: true, Verbosity: 3, Overrides: []worker.Override{{Name: "timeout", Value: "7"}}}
	p.must(want)
	if d := cmp.Diff(want, got); d != "" || !contains(said, "ignoring it\n") {
		t.Errorf("said %q (-want +got):\n%s", said, d)
	}
	p.usable()
	p.bye()
}

func TestNotAClient(t *testing.T) {
	server, client := pair(t)
	ended := make(chan error, 1)
	go func() { ended <- Serve(t.Context(), server, Config{Store: newStore(t)}) }()
	io.WriteString(client, "GET / HTTP/1.1\r\n\r\n")
	if err := <-ended; !errors.Is(err, worker.ErrProtocol) {
		t.Error(err)
	}
}

// stream is a client that has said everything already.
type stream struct {
	io.Reader
	io.Writer
}

func (stream) Close() error { return nil }

// FuzzServe has a client say anything. Whatever it is, the connection ends.
func FuzzServe(f *testing.F) {
	s := storetest.NewMemory(nix.DefaultStoreDir)
	for _, v := range []worker.Version{worker.Oldest, worker.Newest} {
		f.Add(uint8(v.Minor()), []byte("\x01\x00\x00\x00\x00\x00\x00\x00"))
		f.Add(uint8(v.Minor()), []byte("\x07\x00\x00\x00\x00\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00x\x00\x00\x00\x00\x00\x00\x00"))
	}
	b := buildFunc(func(_ context.Context, req *nix.BuildRequest) ([]nix.BuildResult, error) {
		return make([]nix.BuildResult, len(req.Paths)), nil
	})
	for _, said := range sessions(f) {
		minor := said[8]
		behind := 32
		if minor >= 38 {
			behind += 8 // features
		}
		f.Add(minor, said[behind:])
	}
	f.Fuzz(func(t *testing.T, minor uint8, data []byte) {
		var hello bytes.Buffer
		for _, n := range []uint64{0x6e697863, 1<<8 | uint64(minor)} {
			for i := range 8 {
				hello.WriteByte(byte(n >> (8 * i)))
			}
		}
		if minor >= 38 {
			hello.Write(make([]byte, 8))
		}
		hello.Write(make([]byte, 16))
		hello.Write(data)
		Serve(t.Context(), stream{&hello, io.Discard}, Config{Store: s, Builder: b, Trust: worker.Trusted, Limits: Limits{Dump: 1 << 20}})
	})
}
