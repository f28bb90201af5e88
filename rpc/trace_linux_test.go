package rpc

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	kilnv1 "github.com/kilnbuild/kiln/api/kiln/v1"
	"github.com/kilnbuild/kiln/executor"
	xbuild "github.com/kilnbuild/kiln/executor/build"
	"github.com/kilnbuild/kiln/internal/testenv"
	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/conf"
	"github.com/kilnbuild/kiln/tracing"
)

// tracedSpan is what a collector is told of a span, as far as it matters here.
type tracedSpan struct{ TraceID, SpanID, ParentSpanID, Name string }

// collectorOf is a collector, with an exporter that sends to it. What has come is there
// when the exporter was closed.
func collectorOf(t *testing.T) (*tracing.Exporter, *[]tracedSpan) {
	t.Helper()
	var mu sync.Mutex
	spans := &[]tracedSpan{}
	collector := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		var m struct {
			ResourceSpans []struct {
				ScopeSpans []struct{ Spans []tracedSpan }
			}
		}
		text, err := io.ReadAll(r.Body)
		if err == nil {
			err = json.Unmarshal(text, &m)
		}
		if err != nil {
			t.Error(err)
			return
		}
		mu.Lock()
		defer mu.Unlock()
		for _, rs := range m.ResourceSpans {
			for _, ss := range rs.ScopeSpans {
				*spans = append(*spans, ss.Spans...)
			}
		}
	}))
	t.Cleanup(collector.Close)
	settings, _, _, err := tracing.FromEnvironment(func(name string) string {
		return map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": collector.URL}[name]
	})
	if err != nil {
		t.Fatal(err)
	}
	return tracing.New(settings, "test", func(err error) { t.Error(err) }), spans
}

// theirs is the trace of a client, with a span of it.
const theirs = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

// tree says of each span whose trace it is in, and what it is a part of.
func tree(spans []tracedSpan) (all []string) {
	names := map[string]string{"b7ad6b7169203331": "theirs"}
	for _, s := range spans {
		names[s.SpanID] = s.Name
	}
	for _, s := range spans {
		trace := "ours"
		if strings.Contains(theirs, s.TraceID) {
			trace = "theirs"
		}
		all = append(all, trace+": "+s.Name+" in "+names[s.ParentSpanID])
	}
	slices.Sort(all)
	return all
}

// TestTrace has a collector take the spans of builds that a client asks for within a trace
// of its own, and of one that came another way.
func TestTrace(t *testing.T) {
	exporter, spans := collectorOf(t)
	m := newMachine(t, 1)
	m.config = func(c *Config) { c.Traces = exporter }
	m.start()
	c := m.dial()
	r := m.request("traced", "traced", "echo \"in the environment: $(env | grep -ci traceparent)\"; echo > $out", nil)
	stream, err := c.Executor.Build(WithTrace(t.Context(), theirs, "vendor=1"), r)
	if err != nil {
		t.Fatal(err)
	}
	got, err := collect(stream)
	if err != nil || got.result.State != kilnv1.BuildState_BUILD_STATE_SUCCEEDED || !strings.Contains(got.log, "in the environment: 0") {
		t.Fatalf("%+v, %v", got, err)
	}
	drv, err := parseText(m, m.derivation("noted", "echo > $out", nil))
	var path nix.StorePath
	if err == nil {
		path, err = m.store.AddDerivation(t.Context(), drv)
	}
	if err == nil {
		_, err = m.server.Note(t.Context(), "user:1", m.builder, &nix.BuildRequest{Paths: []nix.DerivedPath{nix.Built(path, nix.AllOutputs)}})
	}
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	m.stop()
	exporter.Close(t.Context())

	want := []string{
		"ours: build in ", "ours: builder noted.drv in goal noted.drv", "ours: goal noted.drv in build",
		"theirs: build in theirs", "theirs: builder traced.drv in goal traced.drv", "theirs: goal traced.drv in build",
	}
	if d := cmp.Diff(want, tree(*spans)); d != "" {
		t.Errorf("spans (-want +got):\n%s", d)
	}
}

// TestTraceNested wants what a builder has built by real Nix in the sandbox to be below
// that builder, in the trace of who asked for it.
func TestTraceNested(t *testing.T) {
	testenv.NixVersion(t)
	exporter, spans := collectorOf(t)
	m := newMachine(t, 1)
	m.config = func(c *Config) { c.Traces = exporter }
	m.change = func(s *xbuild.Settings) {
		for _, dir := range []string{"/usr", "/lib", "/lib64"} {
			s.SandboxPaths = append(s.SandboxPaths, xbuild.SandboxPath{Target: dir, Source: dir, Optional: true})
		}
	}
	m.policy = func(s *executor.Settings) { s.ExperimentalFeatures = conf.Features{conf.RecursiveNix} }
	m.start()
	c := m.dial()
	r := m.request("outer", "outer", "", nil)
	r.Targets[0].What = &kilnv1.Target_DerivationText{DerivationText: m.derivation("outer", `set -e
		export PATH=/usr/bin:/bin HOME=/build NIX_CONF_DIR=/build NIX_STATE_DIR=/build/state
		echo "substituters =" > nix.conf
		nix-build --no-out-link -E 'derivation { name = "inner"; system = builtins.currentSystem; builder = "/bin/sh"; args = [ "-c" "echo > $out" ]; }'
		echo > $out`, map[string]string{"requiredSystemFeatures": "recursive-nix"})}
	stream, err := c.Executor.Build(WithTrace(t.Context(), theirs, ""), r)
	if err != nil {
		t.Fatal(err)
	}
	got, err := collect(stream)
	if err != nil || got.result.State != kilnv1.BuildState_BUILD_STATE_SUCCEEDED {
		t.Fatalf("%+v, %v", got, err)
	}
	c.Close()
	m.stop()
	exporter.Close(t.Context())
	want := []string{
		"theirs: build in theirs", "theirs: builder inner.drv in goal inner.drv", "theirs: builder outer.drv in goal outer.drv",
		"theirs: goal inner.drv in builder outer.drv", "theirs: goal outer.drv in build",
	}
	if d := cmp.Diff(want, tree(*spans)); d != "" {
		t.Errorf("spans (-want +got):\n%s", d)
	}
}
