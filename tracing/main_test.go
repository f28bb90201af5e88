package tracing

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A collector takes spans, and answers with the statuses that it has until there are none
// left.
type collector struct {
	*httptest.Server
	mu       sync.Mutex
	statuses []int
	requests int
	headers  http.Header
	resource map[string]string
	spans    []spanJSON
}

func newCollector(t *testing.T, statuses ...int) *collector {
	c := &collector{statuses: statuses, resource: make(map[string]string)}
	c.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.requests++
		c.headers = r.Header
		if len(c.statuses) > 0 {
			w.WriteHeader(c.statuses[0])
			c.statuses = c.statuses[1:]
			return
		}
		text, err := io.ReadAll(r.Body)
		var m exportJSON
		if err == nil {
			err = json.Unmarshal(text, &m)
		}
		if err != nil || r.URL.Path != "/v1/traces" || r.Header.Get("Content-Type") != "application/json" {
			t.Errorf("%s %v: %v", r.URL.Path, r.Header, err)
		}
		for _, rs := range m.ResourceSpans {
			for _, a := range rs.Resource.Attributes {
				c.resource[a.Key] = a.Value.String
			}
			for _, ss := range rs.ScopeSpans {
				c.spans = append(c.spans, ss.Spans...)
			}
		}
	}))
	t.Cleanup(c.Close)
	return c
}

// environment is one that names the collector.
func (c *collector) environment(more map[string]string) func(string) string {
	return func(name string) string {
		switch name {
		case "OTEL_EXPORTER_OTLP_ENDPOINT":
			return c.URL
		case "OTEL_BSP_SCHEDULE_DELAY":
			return "20"
		}
		return more[name]
	}
}

func (c *collector) exporter(t *testing.T, more map[string]string, warn func(error)) *Exporter {
	t.Helper()
	s, on, warnings, err := FromEnvironment(c.environment(more))
	if err != nil || !on || len(warnings) > 0 {
		t.Fatal(on, warnings, err)
	}
	return New(s, "1", warn)
}

func (c *collector) await(t *testing.T, n int) []spanJSON {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		c.mu.Lock()
		spans := c.spans
		c.mu.Unlock()
		if len(spans) >= n {
			return spans
		}
		if time.Now().After(end) {
			t.Fatalf("%d spans came, want %d", len(spans), n)
		}
	}
}
