package rpc

import (
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"

	kilnv1 "github.com/kilnbuild/kiln/api/kiln/v1"
	"github.com/kilnbuild/kiln/nix"
)

// metrics count what happened. They are written in the text format of Prometheus
// (https://prometheus.io/docs/instrumenting/exposition_formats/), which needs no library.
type metrics struct {
	mu       sync.Mutex
	states   map[string]uint64 // builds that ended, by state
	statuses map[string]uint64 // results, by status
	failures map[string]uint64 // results, by kind of failure
	waits    map[string]uint64 // by what is waited for
	queue    histogram         // seconds from being asked for to the first builder
	duration histogram         // seconds of builders
	valid    uint64            // results for which nothing had to be built
	uploads  uint64            // bytes of archives
	download uint64
}

// buckets are the upper bounds of histograms, in seconds.
var buckets = [...]float64{0.01, 0.1, 1, 10, 60, 600, 3600, 36000}

type histogram struct {
	counts [len(buckets)]uint64
	total  uint64
	sum    float64
}

func (h *histogram) add(seconds float64) {
	h.total++
	h.sum += seconds
	for i, bound := range buckets {
		if seconds <= bound {
			h.counts[i]++
		}
	}
}

func count(m *map[string]uint64, name string) {
	if *m == nil {
		*m = make(map[string]uint64)
	}
	(*m)[name]++
}

func (m *metrics) ended(info *kilnv1.BuildInfo) {
	m.mu.Lock()
	defer m.mu.Unlock()
	count(&m.states, stateName(info.State))
	if info.Started != nil {
		m.queue.add(info.Started.AsTime().Sub(info.Created.AsTime()).Seconds())
	}
}

func (m *metrics) result(r *nix.BuildResult) {
	m.mu.Lock()
	defer m.mu.Unlock()
	count(&m.statuses, r.Status.String())
	if f := r.Why(); f.Kind != nix.FailureNone {
		count(&m.failures, f.Kind.String())
	}
	if !r.Start.IsZero() {
		m.duration.add(r.Stop.Sub(r.Start).Seconds())
	} else if r.Status.Success() {
		m.valid++
	}
}

// waited counts the reasons for which goals wait: their first words, without names.
func (m *metrics) waited(why string) {
	reason, _, _ := strings.Cut(why, " '")
	reason = strings.TrimSuffix(reason, " for")
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.waits) < 32 || m.waits[reason] > 0 {
		count(&m.waits, reason)
	}
}

func (m *metrics) moved(up, down uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.uploads += up
	m.download += down
}

func stateName(s kilnv1.BuildState) string {
	return strings.ToLower(strings.TrimPrefix(s.String(), "BUILD_STATE_"))
}

// WriteMetrics writes the metrics.
func (s *Server) WriteMetrics(w io.Writer) error {
	running, queued := s.builds.counts()
	caps := s.cfg.Capabilities()
	p := &printer{w: w}
	p.one("kiln_builds_running", "gauge", "Builds with a builder.", uint64(running))
	p.one("kiln_builds_queued", "gauge", "Builds that wait.", uint64(queued))
	p.one("kiln_slots", "gauge", "Builders at a time.", uint64(caps.Slots))
	p.one("kiln_store_free_bytes", "gauge", "Free space of the store's disk.", uint64(max(caps.FreeBytes, 0)))
	m := &s.metrics
	m.mu.Lock()
	defer m.mu.Unlock()
	p.many("kiln_builds_total", "Builds that ended.", "state", m.states)
	p.many("kiln_results_total", "Results of targets.", "status", m.statuses)
	p.many("kiln_failures_total", "Failures of targets.", "kind", m.failures)
	p.many("kiln_waits_total", "How often something was waited for.", "reason", m.waits)
	p.one("kiln_already_valid_total", "counter", "Targets for which nothing had to be built.", m.valid)
	p.one("kiln_uploaded_bytes_total", "counter", "Bytes of archives that were uploaded.", m.uploads)
	p.one("kiln_downloaded_bytes_total", "counter", "Bytes of archives that were downloaded.", m.download)
	p.histogram("kiln_queue_seconds", "From being asked for to the first builder.", &m.queue)
	p.histogram("kiln_builder_seconds", "From the start of a builder to its outputs.", &m.duration)
	return p.err
}

// ServeHTTP answers any path with the metrics.
func (s *Server) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	_ = s.WriteMetrics(w) // who asked is gone
}

type printer struct {
	w   io.Writer
	err error
}

func (p *printer) printf(format string, args ...any) {
	if p.err == nil {
		_, p.err = fmt.Fprintf(p.w, format, args...)
	}
}

func (p *printer) head(name, kind, help string) {
	p.printf("# HELP %s %s\n# TYPE %s %s\n", name, help, name, kind)
}

func (p *printer) one(name, kind, help string, value uint64) {
	p.head(name, kind, help)
	p.printf("%s %d\n", name, value)
}

func (p *printer) many(name, help, label string, values map[string]uint64) {
	p.head(name, "counter", help)
	escape := strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`)
	for _, key := range slices.Sorted(maps.Keys(values)) {
		p.printf("%s{%s=\"%s\"} %d\n", name, label, escape.Replace(key), values[key])
	}
}

func (p *printer) histogram(name, help string, h *histogram) {
	p.head(name, "histogram", help)
	for i, bound := range buckets {
		p.printf("%s_bucket{le=\"%g\"} %d\n", name, bound, h.counts[i])
	}
	p.printf("%s_bucket{le=\"+Inf\"} %d\n%s_sum %g\n%s_count %d\n", name, h.total, name, h.sum, name, h.total)
}
