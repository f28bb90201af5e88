package tracing

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"
)

// Bounds of what waits to be sent.
const (
	maxQueue = 4096 // spans
	maxBatch = 512  // spans in one request
)

// attempts is how often a batch is sent that the collector does not take at the moment.
const attempts = 3

// An Exporter sends spans to a collector, some at a time. It is safe for concurrent use;
// nil is one that sends nothing. It must be closed.
type Exporter struct {
	Settings
	version string
	warn    func(error)
	client  *http.Client

	queue chan *span
	end   chan struct{}
	ended sync.WaitGroup
	life  context.Context
	stop  context.CancelFunc

	mu      sync.Mutex
	dropped int
	warned  time.Time
}

// New makes an Exporter. version is that of the program; warn is told of what goes wrong,
// once a minute at most.
func New(s Settings, version string, warn func(error)) *Exporter {
	e := &Exporter{
		Settings: s, version: version, warn: warn, client: &http.Client{Transport: http.DefaultTransport.(*http.Transport).Clone()},
		queue: make(chan *span, maxQueue), end: make(chan struct{}),
	}
	e.life, e.stop = context.WithCancel(context.Background())
	e.ended.Go(e.run)
	return e
}

// Close sends what has not been sent yet, until ctx ends. It is called once.
func (e *Exporter) Close(ctx context.Context) {
	if e == nil {
		return
	}
	defer context.AfterFunc(ctx, e.stop)()
	close(e.end)
	e.ended.Wait()
	e.stop()
	for rest := true; rest && ctx.Err() == nil; {
		var batch []*span
		batch, rest = e.gather(nil)
		e.export(ctx, batch)
	}
	e.client.CloseIdleConnections()
}

// send queues a span. It never waits.
func (e *Exporter) send(s *span) {
	select {
	case e.queue <- s:
	default:
		e.mu.Lock()
		e.dropped++
		e.mu.Unlock()
	}
}

func (e *Exporter) run() {
	for {
		select {
		case first := <-e.queue:
			e.export(e.life, e.wait(first))
		case <-e.end:
			return
		}
	}
}

// wait gives others time to come.
func (e *Exporter) wait(first *span) []*span {
	batch := []*span{first}
	timer := time.NewTimer(e.Delay)
	defer timer.Stop()
	for len(batch) < maxBatch {
		select {
		case s := <-e.queue:
			batch = append(batch, s)
		case <-timer.C:
			return batch
		case <-e.end:
			return batch
		}
	}
	return batch
}

// gather adds what waits. more tells that there may be more than that.
func (e *Exporter) gather(batch []*span) (_ []*span, more bool) {
	for len(batch) < maxBatch {
		select {
		case s := <-e.queue:
			batch = append(batch, s)
		default:
			return batch, false
		}
	}
	return batch, true
}

// export sends a batch.
func (e *Exporter) export(ctx context.Context, batch []*span) {
	if len(batch) == 0 {
		return
	}
	body, err := e.message(batch)
	for pause, left := time.Second, attempts; err == nil; pause *= 2 {
		var again bool
		if again, err = e.post(ctx, body); err == nil {
			e.tellDropped()
			return
		}
		if left--; !again || left == 0 {
			break
		}
		select {
		case <-time.After(pause):
			err = nil
		case <-ctx.Done():
		}
	}
	e.complain(fmt.Errorf("send %d spans to '%s': %w", len(batch), e.shown, err))
}

func (e *Exporter) message(batch []*span) ([]byte, error) {
	var resource []attribute
	for _, name := range slices.Sorted(maps.Keys(e.Resource)) {
		resource = append(resource, attribute{name, e.Resource[name]})
	}
	scope := scopeSpansJSON{Scope: scopeJSON{Name: "kiln", Version: e.version}}
	for _, s := range batch {
		scope.Spans = append(scope.Spans, s.json())
	}
	return json.Marshal(exportJSON{[]resourceSpansJSON{{resourceJSON{attributes(resource)}, []scopeSpansJSON{scope}}}})
}

// maxAnswer is how much of an answer is read.
const maxAnswer = 1 << 10

// post sends a message once. again tells that the collector may take it later.
func (e *Exporter) post(ctx context.Context, body []byte) (again bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, e.Timeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, e.Endpoint, bytes.NewReader(body))
	if err != nil {
		return false, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "kiln/"+e.version)
	for name, value := range e.Headers {
		req.Header.Set(name, value)
	}
	resp, err := e.client.Do(req)
	if err != nil {
		return true, err
	}
	defer resp.Body.Close()
	text, _ := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if resp.StatusCode/100 == 2 {
		return false, nil
	}
	again = slices.Contains([]int{http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout}, resp.StatusCode)
	return again, fmt.Errorf("%s: %q", resp.Status, text)
}

func (e *Exporter) tellDropped() {
	e.mu.Lock()
	n := e.dropped
	e.dropped = 0
	e.mu.Unlock()
	if n > 0 {
		e.complain(fmt.Errorf("%d spans were dropped: they came faster than '%s' takes them", n, e.shown))
	}
}

// complain warns, once a minute at most.
func (e *Exporter) complain(err error) {
	e.mu.Lock()
	now := time.Now()
	silent := now.Sub(e.warned) < time.Minute
	if !silent {
		e.warned = now
	}
	e.mu.Unlock()
	if !silent {
		e.warn(err)
	}
}
