package remote

import (
	"strings"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/logline"
	"github.com/kilnbuild/kiln/wire/worker"
)

// listener takes what the daemon tells while it does anything but build.
func (s *Store) listener() worker.Listener {
	if s.opts.Log == nil {
		return worker.Listener{}
	}
	return newTeller(s.opts.Dir, s.opts.Log).listener()
}

// maxActivities bounds how many activities of a daemon are remembered at once.
const maxActivities = 1 << 16

// A teller turns a daemon's messages about activities into events about goals: a
// build is a goal, and an object that is copied is one. It is used by one goroutine.
type teller struct {
	dir nix.StoreDir
	log nix.LogSink
	// goals has the activities that are goals.
	goals map[uint64]*goal
	// failed is how many builds have failed as the daemon counts them, by activity
	// that counts, and told is how many failures were told of. The end of a build does
	// not say how it ended.
	failed map[uint64]uint64
	told   uint64
	// ended are goals whose end was not told yet, since how they ended is not known.
	ended []nix.StorePath
}

// A goal is an activity.
type goal struct {
	path  nix.StorePath
	build bool
}

func newTeller(dir nix.StoreDir, log nix.LogSink) *teller {
	return &teller{dir: dir, log: log, goals: make(map[uint64]*goal), failed: make(map[uint64]uint64)}
}

func (t *teller) listener() worker.Listener {
	return worker.Listener{Next: t.next, Activity: t.activity}
}

// next takes a message for people.
func (t *teller) next(text string) {
	text = plain(text)
	if rest, ok := strings.CutPrefix(text, "warning: "); ok {
		t.log.Event(nix.Event{Kind: nix.EventWarning, Message: rest})
		return
	}
	t.log.Event(nix.Event{Kind: nix.EventNotice, Message: text})
}

func (t *teller) activity(m *logline.Message) {
	switch m.Action {
	case logline.Start:
		t.start(m)
	case logline.Stop:
		if g := t.goals[m.ID]; g != nil {
			delete(t.goals, m.ID)
			t.stop(g)
		}
	case logline.Result:
		t.result(m)
	}
}

// path is a field that has the full path of a store object, "" if it has not.
func (t *teller) path(fields []logline.Field, i int) nix.StorePath {
	if i >= len(fields) || fields[i].IsInt {
		return ""
	}
	p, err := t.dir.Parse(fields[i].Text)
	if err != nil {
		return ""
	}
	return p
}

func text(fields []logline.Field, i int) string {
	if i >= len(fields) {
		return ""
	}
	return fields[i].Text
}

func number(fields []logline.Field, i int) uint64 {
	if i >= len(fields) {
		return 0
	}
	return fields[i].Int
}

func (t *teller) start(m *logline.Message) {
	if m.Type == logline.Builds && len(t.failed) < maxActivities {
		t.failed[m.ID] = 0
	}
	p := t.path(m.Fields, 0)
	if p == "" || len(t.goals) >= maxActivities {
		return
	}
	switch m.Type {
	case logline.Build:
		t.goals[m.ID] = &goal{path: p, build: true}
		t.log.Event(nix.Event{Kind: nix.EventStarted, Path: p, Message: text(m.Fields, 1)})
	case logline.CopyPath:
		t.goals[m.ID] = &goal{path: p}
		t.log.Event(nix.Event{Kind: nix.EventFetching, Path: p, Message: text(m.Fields, 1)})
	}
}

func (t *teller) stop(g *goal) {
	switch {
	case !g.build:
		t.finish(g.path, nix.StatusSubstituted)
	case t.untold() > 0:
		t.told++
		t.finish(g.path, nix.StatusMiscFailure)
	default:
		t.ended = append(t.ended, g.path)
	}
}

// untold is how many failures nobody was told of.
func (t *teller) untold() uint64 {
	var all uint64
	for _, n := range t.failed {
		all += n
	}
	return all - min(all, t.told)
}

func (t *teller) finish(p nix.StorePath, status nix.BuildStatus) {
	t.log.Event(nix.Event{Kind: nix.EventFinished, Path: p, Status: status})
}

// flush tells of the ends of builds that have not failed, as far as anybody knows,
// or as results say.
func (t *teller) flush(results map[nix.StorePath]nix.BuildStatus) {
	for _, p := range t.ended {
		status := nix.StatusBuilt
		if known, ok := results[p]; ok {
			status = known
		} else if t.untold() > 0 {
			t.told++
			status = nix.StatusMiscFailure
		}
		t.finish(p, status)
	}
	t.ended = nil
}

func (t *teller) result(m *logline.Message) {
	g := t.goals[m.ID]
	_, counts := t.failed[m.ID]
	switch {
	case m.Result == logline.Progress && counts:
		t.failed[m.ID] = number(m.Fields, 3)
		t.flush(nil)
	case g == nil:
	case m.Result == logline.Progress:
		t.log.Event(nix.Event{Kind: nix.EventTransfer, Path: g.path, Done: number(m.Fields, 0), Expected: number(m.Fields, 1)})
	case m.Result == logline.BuildLogLine || m.Result == logline.PostBuildLogLine:
		t.log.BuildLog(g.path, []byte(text(m.Fields, 0)+"\n"))
	case m.Result == logline.PhaseSet:
		t.log.Event(nix.Event{Kind: nix.EventPhase, Path: g.path, Message: text(m.Fields, 0)})
	}
}

// close tells of what never ended.
func (t *teller) close(results map[nix.StorePath]nix.BuildStatus) {
	t.flush(results)
	for id, g := range t.goals {
		delete(t.goals, id)
		status, ok := results[g.path]
		switch {
		case ok:
		case g.build:
			status = nix.StatusCancelled
		default:
			status = nix.StatusSubstituted
		}
		t.finish(g.path, status)
	}
}
