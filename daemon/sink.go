package daemon

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/logline"
)

// maxLine is how long a line of a log may be before it is passed on in pieces, in
// bytes.
const maxLine = 64 << 10

// A sink turns what happens to a request into messages for the client: each goal is
// an activity, the lines of its log are that activity's results.
type sink struct {
	out       *tunnel
	dir       nix.StoreDir
	verbosity uint64
	// request is what is built, nil for nothing.
	request *nix.BuildRequest

	mu    sync.Mutex
	ids   uint64
	goals map[nix.StorePath]*goal
	// all is the activity that says how many builds there are.
	all                            uint64
	expected, begun, ended, failed uint64
}

// A goal is an activity that has begun.
type goal struct {
	id    uint64
	build bool
	line  []byte // the part of the log since the last newline
}

func newSink(out *tunnel, dir nix.StoreDir, verbosity uint64) *sink {
	return &sink{out: out, dir: dir, verbosity: verbosity, goals: make(map[nix.StorePath]*goal)}
}

func (k *sink) start(m logline.Message) uint64 {
	k.ids++
	m.Action, m.ID = logline.Start, k.ids
	k.out.put(message{activity: m})
	return k.ids
}

func (k *sink) stop(id uint64) {
	k.out.put(message{activity: logline.Message{Action: logline.Stop, ID: id}})
}

func (k *sink) result(id uint64, r logline.Outcome, fields ...logline.Field) {
	k.out.put(message{activity: logline.Message{Action: logline.Result, ID: id, Result: r, Fields: fields}})
}

// BuildLog implements nix.LogSink.
func (k *sink) BuildLog(drv nix.StorePath, p []byte) {
	k.mu.Lock()
	defer k.mu.Unlock()
	g := k.goals[drv]
	if g == nil {
		g = k.begin(drv, "")
	}
	for len(p) > 0 {
		end := bytes.IndexByte(p, '\n')
		switch room := maxLine - len(g.line); {
		case end >= 0 && end <= room:
			g.line = append(g.line, p[:end]...)
			p = p[end+1:]
			k.flush(g)
		case len(p) > room:
			g.line = append(g.line, p[:room]...)
			p = p[room:]
			k.flush(g)
		default:
			g.line = append(g.line, p...)
			p = nil
		}
	}
}

// flush passes on the line of a goal, which may be empty.
func (k *sink) flush(g *goal) {
	k.result(g.id, logline.BuildLogLine, logline.Text(string(g.line)))
	g.line = g.line[:0]
}

// begin begins the activity of a build, on that machine, "" for this one.
func (k *sink) begin(drv nix.StorePath, machine string) *goal {
	k.count()
	full := k.dir.Join(drv)
	text := fmt.Sprintf("%s '%s'", k.verb(drv), full)
	if machine != "" {
		text += fmt.Sprintf(" on '%s'", machine)
	}
	g := &goal{build: true, id: k.start(logline.Message{
		Level: logline.Info, Type: logline.Build, Text: text, Parent: k.all,
		Fields: []logline.Field{logline.Text(full), logline.Text(machine), logline.Int(1), logline.Int(1)},
	})}
	k.goals[drv] = g
	k.begun++
	k.count()
	return g
}

// verb says what is done with a derivation, in the words of Nix. Only what was asked for
// is checked; what it needs is built.
func (k *sink) verb(drv nix.StorePath) string {
	asked := func(p nix.DerivedPath) bool { return p.Path == drv }
	switch {
	case k.request != nil && k.request.Mode == nix.BuildRepair:
		return "repairing outputs of"
	case k.request != nil && k.request.Mode == nix.BuildCheck && slices.ContainsFunc(k.request.Paths, asked):
		return "checking outputs of"
	}
	return "building"
}

// count tells how far all builds are.
func (k *sink) count() {
	if k.all == 0 {
		k.all = k.start(logline.Message{Level: logline.Debug, Type: logline.Builds})
	}
	running := k.begun - k.ended - k.failed
	k.result(k.all, logline.Progress, logline.Int(k.ended), logline.Int(max(k.expected, k.begun)), logline.Int(running), logline.Int(k.failed))
}

// end ends the activity of a goal.
func (k *sink) end(p nix.StorePath, ok bool) {
	g := k.goals[p]
	if g == nil {
		return
	}
	if len(g.line) > 0 {
		k.flush(g)
	}
	delete(k.goals, p)
	k.stop(g.id)
	if g.build {
		if ok {
			k.ended++
		} else {
			k.failed++
		}
		k.count()
	}
}

// Event implements nix.LogSink.
func (k *sink) Event(e nix.Event) {
	k.mu.Lock()
	defer k.mu.Unlock()
	g := k.goals[e.Path]
	switch e.Kind {
	case nix.EventPlanned:
		if e.Path.IsDerivation() {
			k.expected++
			k.count()
		}
	case nix.EventStarted:
		k.end(e.Path, true)
		k.begin(e.Path, e.Message)
	case nix.EventFetching:
		k.end(e.Path, true)
		full := k.dir.Join(e.Path)
		k.goals[e.Path] = &goal{id: k.start(logline.Message{
			Level: logline.Info, Type: logline.CopyPath, Text: fmt.Sprintf("copying path '%s' from '%s'", full, e.Message),
			Fields: []logline.Field{logline.Text(full), logline.Text(e.Message), logline.Text("")},
		})}
	case nix.EventTransfer:
		if g != nil {
			k.result(g.id, logline.Progress, logline.Int(e.Done), logline.Int(e.Expected), logline.Int(1), logline.Int(0))
		}
	case nix.EventPhase:
		if g != nil {
			k.result(g.id, logline.PhaseSet, logline.Text(e.Message))
		}
	case nix.EventFinished:
		k.end(e.Path, e.Status.Success())
	case nix.EventWarning:
		k.say(logline.Warn, "\x1b[35;1mwarning:\x1b[0m "+e.Message)
	case nix.EventNotice:
		k.say(logline.Notice, e.Message)
	case nix.EventDiagnostic:
		k.say(logline.Talkative, e.Message)
	case nix.EventWaiting:
		k.say(logline.Info, e.Message)
	}
}

// say tells a person who wants to know.
func (k *sink) say(level logline.Level, text string) {
	if uint64(level) <= k.verbosity {
		k.out.put(message{text: strings.TrimSuffix(text, "\n") + "\n"})
	}
}

// failure implements requestLog.
func (k *sink) failure(message string) { k.say(logline.Error, redError+message) }

// redError stands before errors that a person reads, as Nix writes it.
const redError = "\x1b[31;1merror:\x1b[0m "

// close ends all activities.
func (k *sink) close() {
	k.mu.Lock()
	defer k.mu.Unlock()
	for p := range k.goals {
		k.end(p, false)
	}
	if k.all != 0 {
		k.stop(k.all)
		k.all = 0
	}
}
