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
	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/tracing"
)

// TestTrace has a collector take the spans of builds that a client asks for within a trace
// of its own, and of one that came another way.
func TestTrace(t *testing.T) {
	type span struct{ TraceID, SpanID, ParentSpanID, Name string }
	var mu sync.Mutex
	var spans []span
	collector := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		var m struct {
			ResourceSpans []struct{ ScopeSpans []struct{ Spans []span } }
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
				spans = append(spans, ss.Spans...)
			}
		}
	}))
	defer collector.Close()
	settings, _, _, err := tracing.FromEnvironment(func(name string) string {
		return map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": collector.URL}[name]
	})
	if err != nil {
		t.Fatal(err)
	}
	exporter := tracing.New(settings, "test", func(err error) { t.Error(err) })

	m := newMachine(t, 1)
	m.config = func(c *Config) { c.Traces = exporter }
	m.start()
	c := m.dial()
	r := m.request("traced", "traced", "echo \"in the environment: $(env | grep -ci traceparent)\"; echo > $out", nil)
	stream, err := c.Executor.Build(WithTrace(t.Context(), "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "vendor=1"), r)
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

	names := map[string]string{"b7ad6b7169203331": "theirs"}
	for _, s := range spans {
		names[s.SpanID] = s.Name
	}
	var all []string
	for _, s := range spans {
		trace := "theirs"
		if s.TraceID != "0af7651916cd43dd8448eb211c80319c" {
			trace = "ours"
		}
		all = append(all, trace+": "+s.Name+" in "+names[s.ParentSpanID])
	}
	slices.Sort(all)
	want := []string{
		"ours: build in ", "ours: builder noted.drv in goal noted.drv", "ours: goal noted.drv in build",
		"theirs: build in theirs", "theirs: builder traced.drv in goal traced.drv", "theirs: goal traced.drv in build",
	}
	if d := cmp.Diff(want, all); d != "" {
		t.Errorf("spans (-want +got):\n%s", d)
	}
}
