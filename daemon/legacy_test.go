package daemon

import (
	"bytes"
	"context"
	"errors"
	"net"
	"slices"
	"strings"
	"testing"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/store/export"
	"github.com/kilnbuild/kiln/store/storetest"
	"github.com/kilnbuild/kiln/wire"
	"github.com/kilnbuild/kiln/wire/serve"
	"github.com/kilnbuild/kiln/wire/worker"
)

// A legacyPeer is a client of the serve protocol.
type legacyPeer struct {
	t     testing.TB
	conn  net.Conn
	in    *serve.Decoder
	out   *serve.Encoder
	ended chan error // what ServeLegacy returned
}

func connectLegacy(t testing.TB, cfg LegacyConfig) *legacyPeer {
	t.Helper()
	server, client := pair(t)
	p := &legacyPeer{
		t: t, conn: client, ended: make(chan error, 1),
		in: serve.NewDecoder(client, nix.DefaultStoreDir, wire.Limits{}), out: serve.NewEncoder(client, nix.DefaultStoreDir),
	}
	go func() { p.ended <- ServeLegacy(t.Context(), server, cfg) }()
	if err := serve.Handshake(p.in, p.out, serve.Newest); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p *legacyPeer) ask(r serve.Request) {
	p.t.Helper()
	serve.WriteRequest(p.out, r)
	if err := p.out.Flush(); err != nil {
		p.t.Fatal(err)
	}
}

// dies checks that the server ends with that error, and says nothing of it.
func (p *legacyPeer) dies(want string) {
	p.t.Helper()
	if err := <-p.ended; err == nil || !strings.Contains(err.Error(), want) {
		p.t.Errorf("served with the error %v, want %q", err, want)
	}
	if n, _ := p.conn.Read(make([]byte, 1)); n > 0 {
		p.t.Error("there was a reply")
	}
}

func (p *legacyPeer) bye() {
	p.t.Helper()
	p.conn.Close()
	if err := <-p.ended; err != nil {
		p.t.Errorf("served: %v", err)
	}
}

func TestLegacyClosure(t *testing.T) {
	m := newStore(t)
	drv := newDerivation(t, m, "x")
	dep := storetest.Text(t, m.Dir(), "dep", "dep")
	top := storetest.Built(t, m.Dir(), "top", true, dep.Info.Path, drv)
	add(t, m, dep)
	add(t, m, top)
	if _, err := builderOf(t, m).Build(t.Context(), &nix.BuildRequest{Paths: []nix.DerivedPath{nix.Built(drv, nix.AllOutputs)}, Log: &plainLog{lines: map[nix.StorePath][]byte{}}}); err != nil {
		t.Fatal(err)
	}
	loaded, err := (&session{store: m, dir: m.Dir()}).derivation(t.Context(), drv)
	if err != nil {
		t.Fatal(err)
	}
	p := connectLegacy(t, LegacyConfig{Store: m})
	want := []nix.StorePath{dep.Info.Path, drv, top.Info.Path}
	for _, outputs := range []bool{false, true} {
		if outputs {
			want = append(want, loaded.Outputs["out"].Path)
		}
		slices.Sort(want)
		p.ask(&serve.QueryClosure{IncludeOutputs: outputs, Paths: []nix.StorePath{top.Info.Path}})
		if got := p.in.PathSet(); !slices.Equal(got, want) {
			t.Errorf("closure, outputs %v: %v, want %v", outputs, got, want)
		}
	}
	p.bye()
}

func TestLegacyExportImport(t *testing.T) {
	dep := storetest.Text(t, nix.DefaultStoreDir, "dep", "dependency")
	top := storetest.Built(t, nix.DefaultStoreDir, "top", true, dep.Info.Path)
	from, to := newStore(t, dep, top), newStore(t)
	p := connectLegacy(t, LegacyConfig{Store: from})
	p.ask(&serve.ExportPaths{Paths: []nix.StorePath{top.Info.Path, dep.Info.Path}})
	middle := newStore(t)
	got, err := export.Read(t.Context(), p.in.Decoder, middle, export.Options{})
	if err != nil || !slices.Equal(got, []nix.StorePath{dep.Info.Path, top.Info.Path}) {
		t.Fatalf("exported %v, %v", got, err)
	}
	p.bye()
	var stream bytes.Buffer
	if err := export.Write(t.Context(), middle, got, &stream); err != nil {
		t.Fatal(err)
	}
	q := connectLegacy(t, LegacyConfig{Store: to, Write: true})
	serve.WriteRequest(q.out, &serve.ImportPaths{})
	q.out.Write(stream.Bytes())
	q.ask(&serve.QueryValidPaths{Paths: got})
	if n, valid := q.in.Uint64(), q.in.PathSet(); n != 1 || len(valid) != 2 {
		t.Errorf("reply %d, then %v", n, valid)
	}
	q.bye()
	storetest.Check(t, to, top)
}

// TestLegacyRefuses has the server end where it cannot do what it is asked for.
func TestLegacyRefuses(t *testing.T) {
	o := storetest.Text(t, nix.DefaultStoreDir, "x", "x")
	tooMany := &serve.BuildPaths{Options: serve.BuildOptions{Repeats: 1}}
	for name, c := range map[string]struct {
		write   bool
		request serve.Request
		want    string
	}{
		"add":       {false, &serve.AddToStoreNar{Info: &o.Info}, "importing paths is not allowed"},
		"import":    {false, &serve.ImportPaths{}, "importing paths is not allowed"},
		"build":     {false, &serve.BuildPaths{}, "building paths is not allowed"},
		"not there": {false, &serve.DumpStorePath{Path: o.Info.Path}, "is not valid"},
		"repeat":    {true, tooMany, "not currently implemented"},
	} {
		t.Run(name, func(t *testing.T) {
			p := connectLegacy(t, LegacyConfig{Store: newStore(t), Write: c.write})
			p.ask(c.request)
			p.dies(c.want)
		})
	}
}

// TestLegacyVanishes stops a build whose client has gone.
func TestLegacyVanishes(t *testing.T) {
	begun, stopped := make(chan struct{}), make(chan struct{})
	b := buildFunc(func(ctx context.Context, _ *nix.BuildRequest) ([]nix.BuildResult, error) {
		close(begun)
		<-ctx.Done()
		close(stopped)
		return nil, context.Cause(ctx)
	})
	p := connectLegacy(t, LegacyConfig{Store: newStore(t), Builder: b, Write: true})
	p.ask(&serve.BuildPaths{Paths: []nix.DerivedPath{nix.Opaque(none)}})
	<-begun
	p.conn.Close()
	<-stopped
	if err := <-p.ended; !errors.Is(err, ErrClientGone) {
		t.Errorf("served: %v", err)
	}
}

// TestLegacySubstitutes has what is missing fetched, if the client may write.
func TestLegacySubstitutes(t *testing.T) {
	o := storetest.Text(t, nix.DefaultStoreDir, "x", "x")
	for _, write := range []bool{false, true} {
		m := newStore(t)
		b := buildFunc(func(context.Context, *nix.BuildRequest) ([]nix.BuildResult, error) {
			add(t, m, o)
			return []nix.BuildResult{{Status: nix.StatusSubstituted}}, nil
		})
		p := connectLegacy(t, LegacyConfig{Store: substitutable{m}, Builder: b, Write: write})
		p.ask(&serve.QueryValidPaths{Lock: true, Substitute: true, Paths: []nix.StorePath{o.Info.Path}})
		if got := p.in.PathSet(); len(got) > 0 != write {
			t.Errorf("with write %v: %v", write, got)
		}
		p.bye()
	}
}

// substitutable is a store whose missing objects can all be fetched.
type substitutable struct{ *storetest.Memory }

func (substitutable) Substitutable(_ context.Context, wanted map[nix.StorePath]nix.ContentAddress) ([]worker.Substitutable, error) {
	var all []worker.Substitutable
	for p := range wanted {
		all = append(all, worker.Substitutable{Path: p})
	}
	return all, nil
}

func (substitutable) SubstitutablePaths(_ context.Context, paths []nix.StorePath) ([]nix.StorePath, error) {
	return paths, nil
}

var _ Substituter = substitutable{}
