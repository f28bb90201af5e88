package recursive

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/store"
	"github.com/kilnbuild/kiln/store/storetest"
	"github.com/kilnbuild/kiln/wire"
	"github.com/kilnbuild/kiln/wire/worker"
)

func about(op worker.Op, p nix.StorePath) worker.Request {
	return &worker.PathRequest{Operation: op, Path: p}
}

// TestWhatIsUnknownDoesNotExist asks for everything that there is to ask about a path
// that is valid, and not the builder's business.
func TestWhatIsUnknownDoesNotExist(t *testing.T) {
	input := storetest.Text(t, dir, "input", "x")
	other := storetest.Text(t, dir, "other", "x", input.Info.Path)
	drv, _ := derivation(t, "drv", false)
	s := newScene(t, []storetest.Object{input, other, drv}, []nix.StorePath{input.Info.Path}, nil)
	c := s.connect()
	for p, want := range map[nix.StorePath]bool{input.Info.Path: true, other.Info.Path: false, drv.Info.Path: false} {
		if got := c.isValid(p); got != want {
			t.Errorf("%s is valid: %v", p, got)
		}
		c.must(about(worker.OpQueryPathInfo, p))
		if c.bool() != want {
			t.Errorf("there is information of %s: %v", p, !want)
		} else if want {
			c.d.UnkeyedPathInfo(p)
			c.read()
		}
	}
	c.must(&worker.QueryValidPaths{Paths: []nix.StorePath{input.Info.Path, other.Info.Path}, Substitute: true})
	if d := cmp.Diff([]nix.StorePath{input.Info.Path}, c.pathSet()); d != "" {
		t.Errorf("valid paths (-want +got):\n%s", d)
	}
	c.must(&worker.EmptyRequest{Operation: worker.OpQueryAllValidPaths})
	if d := cmp.Diff([]nix.StorePath{input.Info.Path}, c.pathSet()); d != "" {
		t.Errorf("all valid paths (-want +got):\n%s", d)
	}
	c.must(about(worker.OpQueryReferrers, input.Info.Path))
	if got := c.pathSet(); len(got) > 0 {
		t.Errorf("the referrers are %v", got)
	}
	c.must(&worker.QueryMissing{Paths: []nix.DerivedPath{nix.Opaque(other.Info.Path), nix.Built(drv.Info.Path, nix.AllOutputs)}})
	m := c.d.Missing()
	c.read()
	if got := named(m.Unknown); got != "[drv.drv other]" || len(m.WillBuild)+len(m.WillSubstitute) > 0 {
		t.Errorf("missing: %+v", m)
	}

	c.refused("cannot dump unknown path '"+dir.Join(other.Info.Path)+"' in recursive Nix", about(worker.OpNarFromPath, other.Info.Path))
	c.refused("cannot substitute unknown path '"+dir.Join(other.Info.Path)+"' in recursive Nix", about(worker.OpEnsurePath, other.Info.Path))
	c.refused("cannot query output map for unknown path '"+dir.Join(drv.Info.Path)+"' in recursive Nix", about(worker.OpQueryDerivationOutputMap, drv.Info.Path))
	for _, want := range []nix.DerivedPath{nix.Opaque(other.Info.Path), nix.Built(drv.Info.Path, nix.AllOutputs)} {
		for _, op := range []worker.Op{worker.OpBuildPaths, worker.OpBuildPathsWithResults} {
			c.refused("in recursive Nix because path is unknown", &worker.BuildRequest{Operation: op, Paths: []nix.DerivedPath{want}})
		}
	}
	c.must(about(worker.OpEnsurePath, input.Info.Path))
	if c.d.Uint64() != 1 {
		t.Error("what is there cannot be had")
	}
	if len(s.shown) > 0 {
		t.Errorf("it was shown %v", s.shown)
	}
}

// TestRefusedOperations are those that a builder may not ask for, whatever they are
// about.
func TestRefusedOperations(t *testing.T) {
	input := storetest.Text(t, dir, "input", "x")
	drv, out := derivation(t, "drv", true)
	s := newScene(t, []storetest.Object{input, drv}, []nix.StorePath{input.Info.Path, drv.Info.Path}, nil)
	basic, err := s.store.Derivation(t.Context(), drv.Info.Path)
	if err != nil {
		t.Fatal(err)
	}
	c := s.connect()
	realisation := &nix.Realisation{ID: nix.DrvOutput{Drv: drv.Info.Path, Output: "out"}, OutPath: out}
	for _, refused := range []struct {
		says string
		req  worker.Request
	}{
		{"queryPathFromHashPart", &worker.QueryPathFromHashPart{HashPart: input.Info.Path.HashPart()}},
		{"unsupported build mode", &worker.BuildRequest{Operation: worker.OpBuildPaths, Mode: nix.BuildCheck, Paths: []nix.DerivedPath{nix.Built(drv.Info.Path, nix.AllOutputs)}}},
		{"repair", &worker.BuildRequest{Operation: worker.OpBuildPaths, Mode: nix.BuildRepair, Paths: []nix.DerivedPath{nix.Built(drv.Info.Path, nix.AllOutputs)}}},
		{"buildDerivation", &worker.BuildDerivation{Drv: drv.Info.Path, Basic: &basic.BasicDerivation}},
		{"register", &worker.RegisterDrvOutput{Realisation: realisation}},
		{"", &worker.AddSignatures{Path: input.Info.Path, Signatures: []string{"key:" + strings.Repeat("A", 86) + "=="}}},
		{"", &worker.EmptyRequest{Operation: worker.OpOptimiseStore}},
		{"", &worker.VerifyStore{}},
		{"", &worker.AddPermRoot{Path: input.Info.Path, Link: "/tmp/root"}},
	} {
		c.refused(refused.says, refused.req)
	}
	c.must(about(worker.OpAddTempRoot, input.Info.Path))
	if c.d.Uint64() != 1 {
		t.Error("a temporary root is not taken")
	}
	c.must(&worker.QueryRealisation{ID: realisation.ID})
	if got := c.d.OptionalRealisation(realisation.ID); got != nil {
		t.Errorf("a realisation is known: %v", got)
	}
	if !c.isValid(input.Info.Path) {
		t.Error("the connection cannot be used any more")
	}
}

// TestInformationIsCensored wants what is told of objects to follow from the objects.
func TestInformationIsCensored(t *testing.T) {
	input := storetest.Text(t, dir, "input", "x")
	input.Info.Deriver = "00000000000000000000000000000000-secret.drv"
	input.Info.RegistrationTime = time.Unix(1234567890, 0)
	input.Info.Ultimate, input.Info.Signatures = true, []string{"key:" + strings.Repeat("A", 86) + "=="}
	s := newScene(t, []storetest.Object{input}, []nix.StorePath{input.Info.Path}, nil)
	c := s.connect()
	c.must(about(worker.OpQueryPathInfo, input.Info.Path))
	if !c.bool() {
		t.Fatal("there is none")
	}
	got := c.d.UnkeyedPathInfo(input.Info.Path)
	c.read()
	want := &nix.PathInfo{Path: input.Info.Path, NARHash: input.Info.NARHash, NARSize: input.Info.NARSize, References: got.References, CA: input.Info.CA, RegistrationTime: got.RegistrationTime}
	if d := cmp.Diff(want, got, cmp.AllowUnexported(nix.Hash{}, nix.ContentAddress{})); d != "" || got.RegistrationTime.Unix() > 0 {
		t.Errorf("registered %v; (-want +got):\n%s", got.RegistrationTime, d)
	}
}

// TestAdded wants what a builder adds to be visible before it hears of it, and to
// refer to what exists for it only.
func TestAdded(t *testing.T) {
	input, secret := storetest.Text(t, dir, "input", "x"), storetest.Text(t, dir, "secret", "x")
	fails := false
	s := newScene(t, []storetest.Object{input, secret}, []nix.StorePath{input.Info.Path}, func(s *scene) {
		show := s.cfg.Show
		s.cfg.Show = func(ctx context.Context, paths []nix.StorePath) error {
			if fails {
				return errors.New("no mount")
			}
			return show(ctx, paths)
		}
	})
	c := s.connect()
	text := func(content string, references ...nix.StorePath) (*worker.AddToStore, func(io.Writer)) {
		return &worker.AddToStore{Name: "text", Method: nix.Text, Algorithm: nix.SHA256, References: references}, sends([]byte(content))
	}
	req, body := text("one", input.Info.Path)
	c.must(req, body)
	info := c.d.PathInfo()
	c.read()
	if !s.visible(info.Path) || !c.isValid(info.Path) {
		t.Errorf("%s is not visible", info.Path)
	}
	req, body = text("two", input.Info.Path, info.Path)
	c.must(req, body)
	second := c.d.PathInfo()
	c.read()

	req, body = text("three", secret.Info.Path)
	c.refused("it refers to '"+dir.Join(secret.Info.Path)+"', which is unknown in recursive Nix", req, body)
	whole := storetest.Text(t, dir, "whole", "content", secret.Info.Path)
	c.refused("unknown in recursive Nix", &worker.AddToStoreNar{Info: &whole.Info}, sends(whole.NAR))
	whole = storetest.Text(t, dir, "whole", "content", input.Info.Path)
	c.must(&worker.AddToStoreNar{Info: &whole.Info}, sends(whole.NAR))
	if !s.visible(whole.Info.Path) {
		t.Error("an archive is not visible")
	}
	forged := storetest.Built(t, dir, "forged", false)
	c.refused("", &worker.AddToStoreNar{Info: &forged.Info, DontCheckSigs: true}, sends(forged.NAR))
	if _, err := s.store.PathInfo(t.Context(), forged.Info.Path); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("a builder claimed %s: %v", forged.Info.Path, err)
	}

	fails = true
	req, body = text("four")
	c.refused("make store objects visible in the sandbox: no mount", req, body)
	fails = false
	c.must(req, body)
	last := c.d.PathInfo()
	if d := cmp.Diff([]nix.StorePath{info.Path, second.Path, whole.Info.Path, last.Path}, s.server.Added()); d != "" {
		t.Errorf("added (-want +got):\n%s", d)
	}
}

// TestBuiltClosureIsThere wants a build to bring what its output needs, and its
// realisation.
func TestBuiltClosureIsThere(t *testing.T) {
	need := storetest.Built(t, dir, "need", false)
	drv, out := derivation(t, "drv", false)
	made := storetest.Built(t, dir, "drv", true, need.Info.Path)
	made.Info.Path = storetest.Built(t, dir, "drv", false).Info.Path
	if made.Info.Path != out {
		t.Fatalf("the output is %s, want %s", made.Info.Path, out)
	}
	s := newScene(t, []storetest.Object{need, made, drv}, []nix.StorePath{drv.Info.Path}, func(s *scene) {
		s.cfg.Builder = buildFunc(func(_ context.Context, req *nix.BuildRequest) ([]nix.BuildResult, error) {
			if req.Network != nix.NetworkOff {
				t.Errorf("the network is %v", req.Network)
			}
			req.Log.Event(nix.Event{Kind: nix.EventStarted, Path: drv.Info.Path})
			req.Log.BuildLog(drv.Info.Path, []byte("it is built\n"))
			req.Log.Event(nix.Event{Kind: nix.EventFinished, Path: drv.Info.Path})
			return []nix.BuildResult{built(drv.Info.Path, out)}, nil
		})
	})
	c := s.connect()
	c.must(&worker.BuildRequest{Operation: worker.OpBuildPathsWithResults, Paths: []nix.DerivedPath{nix.Built(drv.Info.Path, nix.AllOutputs)}})
	if results := c.d.KeyedBuildResults(); len(results) != 1 || results[0].Outputs["out"].OutPath != out {
		t.Errorf("results: %+v", results)
	}
	c.read()
	for _, p := range []nix.StorePath{need.Info.Path, out} {
		if !s.visible(p) || !c.isValid(p) {
			t.Errorf("%s is not visible", p)
		}
	}
	id := nix.DrvOutput{Drv: drv.Info.Path, Output: "out"}
	c.must(&worker.QueryRealisation{ID: id})
	if got := c.d.OptionalRealisation(id); got == nil || got.OutPath != out {
		t.Errorf("the realisation is %v", got)
	}
	if strings.Contains(c.said.String(), "it is built") || s.printed.String() != "it is built\n" {
		t.Errorf("the client is told %q, and the log has %q", c.said.String(), s.printed.String())
	}
	if builds := s.server.Builds(); len(builds) != 1 || builds[0].Drv != drv.Info.Path || builds[0].Status != nix.StatusBuilt {
		t.Errorf("builds: %+v", builds)
	}
}

// TestT24NetworkFailures fails builds that may reach the network, or need one that
// does: what they say reaches the outer build's log, and not who asked. Where they
// have the network, the outer build fails.
func TestT24NetworkFailures(t *testing.T) {
	const secret = "a secret of the network"
	fetch, _ := derivation(t, "fetch", true)
	user, _ := derivation(t, "user", false, fetch.Info.Path)
	pure, _ := derivation(t, "pure", false)
	for _, network := range []nix.NetworkPolicy{nix.NetworkOff, nix.NetworkRefused, nix.NetworkAllowed} {
		for _, o := range []storetest.Object{fetch, user, pure} {
			isPure := o.Info.Path == pure.Info.Path
			s := newScene(t, []storetest.Object{fetch, user, pure}, []nix.StorePath{fetch.Info.Path, user.Info.Path, pure.Info.Path}, func(s *scene) {
				s.cfg.Network = network
				s.cfg.Builder = buildFunc(func(_ context.Context, req *nix.BuildRequest) ([]nix.BuildResult, error) {
					req.Log.BuildLog(fetch.Info.Path, []byte(secret))
					req.Log.Event(nix.Event{Kind: nix.EventWarning, Message: secret})
					return []nix.BuildResult{{Path: req.Paths[0], Status: nix.StatusPermanentFailure, Message: "it failed: " + secret, TimesBuilt: 1,
						Resources: &nix.Resources{}, Isolation: &nix.Isolation{}}}, nil
				})
			})
			for _, op := range []worker.Op{worker.OpBuildPaths, worker.OpBuildPathsWithResults} {
				c := s.connect()
				said := ""
				err := c.ask(&worker.BuildRequest{Operation: op, Paths: []nix.DerivedPath{nix.Built(o.Info.Path, nix.AllOutputs)}})
				if err != nil {
					said = err.Error()
				} else if results := c.d.KeyedBuildResults(); len(results) == 1 && !results[0].Status.Success() {
					said = results[0].Message
				}
				if !strings.Contains(said, "failed") {
					t.Errorf("%s, network %v: a failure is told as %q", o.Info.Path.Name(), network, said)
				}
				if told := strings.Contains(said+c.said.String(), secret); told != isPure {
					t.Errorf("%s, network %v, %v: it is told: %v: %q", o.Info.Path.Name(), network, op, told, said+c.said.String())
				}
			}
			if got := strings.Contains(s.notices(), secret); got == isPure {
				t.Errorf("%s, network %v: the outer log has %q", o.Info.Path.Name(), network, s.notices())
			}
			if failed := len(s.failures()) > 0; failed != (network == nix.NetworkAllowed && !isPure) {
				t.Errorf("%s, network %v: the outer build fails: %v", o.Info.Path.Name(), network, s.failures())
			}
			for _, err := range s.failures() {
				if strings.Contains(err.Error(), secret) {
					t.Errorf("the outer build's failure says %v", err)
				}
			}
		}
	}
}

// TestCloseEndsEverything closes a server while clients build, wait, have sent half a
// message, and are too many.
func TestCloseEndsEverything(t *testing.T) {
	drv, _ := derivation(t, "drv", false)
	building := make(chan struct{})
	ended := make(chan error, 1)
	s := newScene(t, []storetest.Object{drv}, []nix.StorePath{drv.Info.Path}, func(s *scene) {
		s.cfg.Builder = buildFunc(func(ctx context.Context, _ *nix.BuildRequest) ([]nix.BuildResult, error) {
			close(building)
			<-ctx.Done()
			ended <- context.Cause(ctx)
			return nil, context.Cause(ctx)
		})
	})
	c := s.connect()
	worker.WriteRequest(c.e, &worker.BuildRequest{Operation: worker.OpBuildPaths, Paths: []nix.DerivedPath{nix.Built(drv.Info.Path, nix.AllOutputs)}})
	if err := c.e.Flush(); err != nil {
		t.Fatal(err)
	}
	<-building
	half := s.connect()
	if _, err := half.conn.Write([]byte{1, 0}); err != nil {
		t.Fatal(err)
	}
	for range 2 * maxConnections {
		conn, err := net.Dial("unix", s.address)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
	}
	closed := make(chan struct{})
	go func() {
		// The listener outlives it where the accepting goroutine waits for room.
		s.server.Close()
		close(closed)
	}()
	select {
	case <-closed:
	case <-time.After(20 * time.Second):
		t.Fatal("it is not closed")
	}
	if err := <-ended; !errors.Is(err, errOver) {
		t.Errorf("the build ended with %v", err)
	}
	if _, err := c.conn.Read(make([]byte, 1)); err == nil {
		// What was on its way may still come; the end must too.
		if _, err = io.Copy(io.Discard, c.conn); err != nil {
			t.Logf("after the end: %v", err)
		}
	}
}

// TestGarbage wants a client that sends what cannot be read to lose its connection,
// and others to notice nothing.
func TestGarbage(t *testing.T) {
	input := storetest.Text(t, dir, "input", "x")
	s := newScene(t, []storetest.Object{input}, []nix.StorePath{input.Info.Path}, nil)
	good := s.connect()
	for name, sent := range map[string][]byte{
		"noise": []byte(strings.Repeat("nothing of the kind ", 100)), "zeros": make([]byte, 4096), "nothing": {},
	} {
		conn, err := net.Dial("unix", s.address)
		if err != nil {
			t.Fatal(err)
		}
		conn.Write(sent)
		conn.(*net.UnixConn).CloseWrite()
		conn.SetReadDeadline(time.Now().Add(10 * time.Second))
		if _, err := io.Copy(io.Discard, conn); errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: the connection stays open", name)
		}
		conn.Close()
	}
	number := binary.LittleEndian.AppendUint64
	for name, sent := range map[string][]byte{
		"huge text":         number(number(nil, uint64(worker.OpIsValidPath)), 1<<60),
		"huge set":          number(number(nil, uint64(worker.OpQueryValidPaths)), 1<<60),
		"unknown operation": number(nil, 12345),
	} {
		c := s.connect()
		c.conn.Write(sent)
		if err := c.messages(); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
	for name, text := range map[string]string{"outside": "/etc/passwd", "above": string(dir) + "/../etc", "directory": string(dir), "relative": "x"} {
		c := s.connect()
		e := wire.NewWriter(c.conn)
		e.Uint64(uint64(worker.OpIsValidPath))
		e.Text(text)
		if err := e.Flush(); err != nil {
			t.Fatal(err)
		}
		if err := c.messages(); err == nil {
			t.Errorf("%s: the path %q is taken", name, text)
		}
	}
	if !good.isValid(input.Info.Path) {
		t.Error("another connection cannot be used any more")
	}
}
