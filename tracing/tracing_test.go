package tracing

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/kilnbuild/kiln/nix"
)

const (
	parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	unsent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00"
)

// TestTree wants spans of everything that happens to a build, each below what it is a part
// of, all in the trace of who asked.
func TestTree(t *testing.T) {
	c := newCollector(t)
	e := c.exporter(t, map[string]string{
		"OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer%20x", "OTEL_RESOURCE_ATTRIBUTES": "host.name=h,service.name=other", "OTEL_SERVICE_NAME": "builder",
	}, func(err error) { t.Error(err) })
	b := e.Start(Parse(parent, "a=b"), "id", "user:1", []string{"/nix/store/x"})
	path := func(name string) nix.StorePath { return nix.StorePath(strings.Repeat("0", 32) + "-" + name) }
	event := func(kind nix.EventKind, name, message string, within ...string) {
		ev := nix.Event{Kind: kind, Path: path(name), Message: message}
		if len(within) > 0 {
			ev.Within = path(within[0])
		}
		b.Event(ev)
	}
	event(nix.EventPlanned, "outer", "")
	event(nix.EventFetching, "input", "https://cache")
	event(nix.EventFinished, "input", "")
	event(nix.EventWaiting, "outer", "a lock")
	event(nix.EventStarted, "outer", "")
	event(nix.EventPhase, "outer", "unpack")
	event(nix.EventStarted, "inner", "", "outer")
	event(nix.EventStarted, "innermost", "", "inner")
	event(nix.EventFinished, "innermost", "", "inner")
	event(nix.EventPhase, "outer", "build")
	b.Event(nix.Event{Kind: nix.EventFinished, Path: path("inner"), Status: nix.StatusPermanentFailure, Message: "it broke"})
	event(nix.EventNotice, "unknown", "says nothing of a goal")
	event(nix.EventFinished, "outer", "")
	event(nix.EventStarted, "abandoned", "")
	b.End("failed", "PermanentFailure")
	b.End("failed", "a second time")
	event(nix.EventStarted, "late", "")
	spans := c.await(t, 13)
	e.Close(t.Context())

	byID := make(map[string]spanJSON)
	for _, s := range spans {
		byID[s.SpanID] = s
		if s.TraceID != "0af7651916cd43dd8448eb211c80319c" || s.TraceState != "a=b" || s.Start > s.End || len(s.SpanID) != 16 {
			t.Errorf("span %+v", s)
		}
	}
	var tree []string
	for _, s := range spans {
		line := s.Name
		if s.Status.Code != 0 {
			line += " !" + s.Status.Message
		}
		at := s
		for at.Parent != "b7ad6b7169203331" {
			up, ok := byID[at.Parent]
			if !ok {
				t.Fatalf("the parent of %+v did not come", at)
			}
			line, at = up.Name+" / "+line, up
		}
		tree = append(tree, line)
	}
	slices.Sort(tree)
	want := []string{
		"build !PermanentFailure",
		"build / goal abandoned !it was not finished",
		"build / goal abandoned / builder abandoned !it was not finished",
		"build / goal input",
		"build / goal outer",
		"build / goal outer / builder outer",
		"build / goal outer / builder outer / goal inner !it broke",
		"build / goal outer / builder outer / goal inner / builder inner !it broke",
		"build / goal outer / builder outer / goal inner / builder inner / goal innermost",
		"build / goal outer / builder outer / goal inner / builder inner / goal innermost / builder innermost",
		"build / goal outer / builder outer / phase build",
		"build / goal outer / builder outer / phase unpack",
		"build / goal outer / wait",
	}
	slices.Sort(want)
	if d := cmp.Diff(want, tree); d != "" {
		t.Errorf("spans (-want +got):\n%s", d)
	}
	if c.headers.Get("Authorization") != "Bearer x" || c.resource["service.name"] != "builder" || c.resource["host.name"] != "h" {
		t.Errorf("headers %v, resource %v", c.headers, c.resource)
	}
}

// TestCollectors has collectors that do not take everything, or nothing: no build waits for
// them, and the operator is told.
func TestCollectors(t *testing.T) {
	for name, x := range map[string]struct {
		statuses []int
		spans    int
		warning  string
	}{
		"busy":     {[]int{503}, 1, ""},
		"refusing": {[]int{400}, 0, "400 Bad Request"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCollector(t, x.statuses...)
			var warnings []string
			e := c.exporter(t, nil, func(err error) { warnings = append(warnings, err.Error()) })
			e.Start(Context{}, "id", "", nil).End("succeeded", "")
			if x.spans > 0 {
				c.await(t, x.spans)
			}
			e.Close(t.Context())
			if len(c.spans) != x.spans || c.requests != len(x.statuses)+x.spans || (x.warning == "") != (len(warnings) == 0) || !strings.Contains(fmt.Sprint(warnings), x.warning) {
				t.Errorf("%d spans by %d requests, warnings %q", len(c.spans), c.requests, warnings)
			}
		})
	}
	t.Run("gone", func(t *testing.T) {
		t.Parallel()
		c := newCollector(t)
		c.Close()
		var warnings []string
		e := c.exporter(t, nil, func(err error) { warnings = append(warnings, err.Error()) })
		begun := time.Now()
		for range 3 * maxQueue {
			e.Start(Context{}, "id", "", nil).End("succeeded", "")
		}
		if took := time.Since(begun); took > 10*time.Second {
			t.Errorf("builds waited for a collector: %v", took)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		e.Close(ctx)
		if len(warnings) != 1 { // one a minute
			t.Errorf("%q", warnings)
		}
	})
}

func TestSampling(t *testing.T) {
	c := newCollector(t)
	for sampler, want := range map[string]string{ // of no parent, one that is sampled, one that is not
		"": "true true false", "parentbased_always_off": "false true false", "always_on": "true true true", "always_off": "false false false",
		"traceidratio": "true true true",
	} {
		e := c.exporter(t, map[string]string{"OTEL_TRACES_SAMPLER": sampler}, func(err error) { t.Error(err) })
		var got []string
		for _, p := range []string{"", parent, unsent} {
			got = append(got, fmt.Sprint(e.Start(Parse(p, ""), "id", "", nil) != nil))
		}
		if text := strings.Join(got, " "); text != want {
			t.Errorf("%s: %s, want %s", sampler, text, want)
		}
		e.Close(t.Context())
	}
	var none *Exporter
	none.Start(Context{}, "id", "", nil).End("succeeded", "")
	none.Close(t.Context())
}

func TestParse(t *testing.T) {
	for text, valid := range map[string]bool{
		parent: true, unsent: true, "01" + parent[2:] + "-more": true,
		"": false, "ff" + parent[2:]: false, parent + "-more": false, strings.ToUpper(parent): false, parent[:len(parent)-1]: false,
		"00-00000000000000000000000000000000-b7ad6b7169203331-01": false, "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01": false,
		parent + "," + parent: false,
	} {
		c := Parse(text, strings.Repeat("x", maxState+1))
		if c.Valid() != valid || c.State() != "" || valid && text[:2] == "00" && c.String() != text {
			t.Errorf("%q: %v", text, c)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(parent, "a=b")
	f.Add("01-"+parent[3:]+"-x", "")
	f.Fuzz(func(t *testing.T, text, state string) {
		c := Parse(text, state)
		if again := Parse(c.String(), c.State()); c.Valid() && again != c {
			t.Errorf("%q, %q: %v and %v", text, state, c, again)
		}
	})
}

func TestEnvironment(t *testing.T) {
	with := func(more map[string]string) func(string) string {
		vars := map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318/"}
		maps.Copy(vars, more)
		return func(name string) string { return vars[name] }
	}
	for _, c := range []struct {
		vars     map[string]string
		on       bool
		endpoint string
		warnings int
		err      string
	}{
		{map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": ""}, false, "", 0, ""},
		{nil, true, "http://localhost:4318/v1/traces", 0, ""},
		{map[string]string{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "https://c/x"}, true, "https://c/x", 0, ""},
		{map[string]string{"OTEL_SDK_DISABLED": "true"}, false, "", 0, ""},
		{map[string]string{"OTEL_TRACES_EXPORTER": "none"}, false, "", 0, ""},
		{map[string]string{"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, true, "http://localhost:4318/v1/traces", 1, ""},
		{map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "localhost:4318"}, false, "", 0, "no URL"},
		{map[string]string{"OTEL_EXPORTER_OTLP_TIMEOUT": "soon"}, false, "", 0, "milliseconds"},
		{map[string]string{"OTEL_EXPORTER_OTLP_HEADERS": "secret"}, false, "", 0, "name=value"},
		{map[string]string{"OTEL_TRACES_SAMPLER": "some"}, false, "", 0, "choose"},
		{map[string]string{"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "NaN"}, false, "", 0, "from 0 to 1"},
	} {
		s, on, warnings, err := FromEnvironment(with(c.vars))
		if on != c.on || len(warnings) != c.warnings || (err != nil) != (c.err != "") || err != nil && (!strings.Contains(err.Error(), c.err) || strings.Contains(err.Error(), "secret")) || on && s.Endpoint != c.endpoint {
			t.Errorf("%v: %+v, %v, %q, %v", c.vars, s, on, warnings, err)
		}
	}
}
