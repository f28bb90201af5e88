package tracing

import (
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/kilnbuild/kiln/nix"
)

// A Build is a request that is traced. It is a nix.LogSink: the events of the request
// become spans.
type Build struct {
	e    *Exporter
	root *span

	mu    sync.Mutex
	goals map[nix.StorePath]*goal // that have not ended
	over  bool
}

var _ nix.LogSink = (*Build)(nil)

// goal has the open spans of a goal; all but the first may be nil.
type goal struct{ whole, waiting, builder, phase *span }

// Start begins the trace of a request, or goes on with that of who asked for it. It gives
// nil if nothing is to be told of it.
func (e *Exporter) Start(parent Context, id, owner string, targets []string) *Build {
	if e == nil || !e.sampler.take(parent) {
		return nil
	}
	root := &span{name: "build", kind: kindServer, start: time.Now(), context: Context{trace: parent.trace, span: newSpan(), sampled: true, state: parent.state}, parent: parent.span}
	if !parent.Valid() {
		root.context.trace, root.parent = newTrace(), spanID{}
	}
	root.set("kiln.build.id", id)
	root.set("kiln.build.owner", owner)
	root.set("kiln.build.targets", strings.Join(targets[:min(len(targets), maxTargets)], " "))
	return &Build{e: e, root: root, goals: make(map[nix.StorePath]*goal)}
}

// maxTargets is how many of the targets a span has.
const maxTargets = 10

// BuildLog implements nix.LogSink. Logs are no part of a trace.
func (b *Build) BuildLog(nix.StorePath, []byte) {}

// Event implements nix.LogSink.
func (b *Build) Event(e nix.Event) {
	if e.Path == "" {
		return
	}
	now := time.Now()
	b.mu.Lock()
	defer b.mu.Unlock()
	g := b.goals[e.Path]
	if g == nil {
		if !begins(e.Kind) || b.over {
			return
		}
		g = &goal{whole: b.within(e.Within).child("goal "+e.Path.Name(), now)}
		g.whole.set("kiln.goal.path", string(e.Path))
		b.goals[e.Path] = g
	}
	b.end(&g.waiting, now, "")
	switch e.Kind {
	case nix.EventWaiting:
		g.waiting = g.whole.child("wait", now)
		g.waiting.set("kiln.wait.for", e.Message)
	case nix.EventStarted:
		b.end(&g.phase, now, "")
		b.end(&g.builder, now, "") // of an earlier round
		g.builder = g.whole.child("builder "+e.Path.Name(), now)
		g.builder.set("kiln.builder.machine", e.Message)
	case nix.EventPhase:
		b.end(&g.phase, now, "")
		if g.builder != nil {
			g.phase = g.builder.child("phase "+e.Message, now)
		}
	case nix.EventFetching:
		g.whole.set("kiln.fetch.from", e.Message)
	case nix.EventFinished:
		reason := ""
		g.whole.set("kiln.goal.status", e.Status.String())
		if !e.Status.Success() {
			reason = e.Status.String()
			if e.Message != "" {
				reason = e.Message
			}
		}
		delete(b.goals, e.Path)
		b.endGoal(g, now, reason)
	}
}

// begins tells whether an event is one of those that a goal begins with.
func begins(k nix.EventKind) bool {
	return slices.Contains([]nix.EventKind{nix.EventPlanned, nix.EventWaiting, nix.EventStarted, nix.EventFetching}, k)
}

// within is the span below which something happens for the builder of a derivation, or for
// the request itself.
func (b *Build) within(drv nix.StorePath) *span {
	if g := b.goals[drv]; g != nil && g.builder != nil {
		return g.builder
	}
	return b.root
}

func (b *Build) endGoal(g *goal, now time.Time, failure string) {
	b.end(&g.waiting, now, "")
	b.end(&g.phase, now, "")
	b.end(&g.builder, now, failure)
	b.end(&g.whole, now, failure)
}

func (b *Build) end(s **span, now time.Time, failure string) {
	if *s != nil {
		(*s).end, (*s).failure = now, failure
		b.e.send(*s)
		*s = nil
	}
}

// End ends the trace of the request. failure is "" for a success.
func (b *Build) End(state, failure string) {
	if b == nil {
		return
	}
	now := time.Now()
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.over {
		return
	}
	b.over = true
	for _, g := range b.goals {
		b.endGoal(g, now, "it was not finished")
	}
	b.goals = nil
	b.root.set("kiln.build.state", state)
	b.end(&b.root, now, failure)
}
