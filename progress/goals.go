package progress

import (
	"math"
	"slices"
	"strings"
	"time"

	"github.com/kilnbuild/kiln/nix"
)

// Limits of what is remembered. What is beyond them is built all the same, and
// counted; the view knows less of it.
const (
	maxGoals = 1 << 18
	maxEdges = 1 << 20
	maxNoted = 64 // goals that wait for something special
)

type goalState uint8

const (
	mentioned goalState = iota // an input of another goal, and perhaps no goal
	waiting
	building
	fetching
	ended
)

// goal is what is known of one derivation or store object.
type goal struct {
	path     nix.StorePath
	state    goalState
	began    time.Time // since when it is built or fetched
	phase    string
	note     string // what it waits for, or where it comes from
	from     string // what is being downloaded for it
	done     uint64 // bytes
	expected uint64
	inputs   []*goal
	parent   *goal // the first that named it as an input
	tail     logTail
	fetched  bool
	top      bool
	seq      int // by when it was first heard of: neighbours keep their order
}

// name is how people call a goal.
func (g *goal) name() string { return goalName(g.path) }

func goalName(p nix.StorePath) string {
	return strings.TrimSuffix(p.Name(), nix.DrvExtension)
}

func (g *goal) active() bool { return g.state == building || g.state == fetching }

// goals is everything that is known of a request's goals. Those that ended are
// only counted.
type goals struct {
	began  time.Time // of the first goal
	byPath map[nix.StorePath]*goal
	most   int // how many are remembered
	edges  int
	seq    int
	active []*goal // built and fetched now, oldest first
	noted  []*goal // those of the waiting that say for what
	tops   []*goal // goals that nobody had named when they were planned
	over   int     // how many of tops ended: never more than half
	latest *goal   // the active one that said something last

	waiting, building, fetching int
	unknown                     int // waiting goals that are not remembered
	built, fetched, failed      int
	dropped                     int // ended because another one failed

	received uint64 // bytes of downloads that ended
	coming   uint64 // bytes that waiting goals say they have
	sized    int    // how many of them do
	rate     rate
}

func newGoals() *goals { return &goals{byPath: make(map[nix.StorePath]*goal), most: maxGoals} }

// unfinished is how many goals have not ended.
func (gs *goals) unfinished() int { return gs.waiting + gs.building + gs.fetching + gs.unknown }

// ended is how many goals ended after there was something to do for them.
func (gs *goals) ended() int { return gs.built + gs.fetched + gs.failed + gs.dropped }

// get finds a goal, or begins to remember it. It is nil when there are too many.
func (gs *goals) get(p nix.StorePath) *goal {
	g := gs.byPath[p]
	if g == nil && len(gs.byPath) < gs.most {
		gs.seq++
		g = &goal{path: p, seq: gs.seq}
		gs.byPath[p] = g
	}
	return g
}

func (gs *goals) count(s goalState) *int {
	switch s {
	case waiting:
		return &gs.waiting
	case building:
		return &gs.building
	case fetching:
		return &gs.fetching
	}
	return new(int)
}

// become changes the state of a goal.
func (gs *goals) become(g *goal, s goalState, now time.Time) {
	if gs.began.IsZero() {
		gs.began = now
	}
	gs.quiet(g)
	gs.come(g, -1)
	was := g.active()
	*gs.count(g.state)--
	g.state = s
	*gs.count(s)++
	gs.come(g, 1)
	switch {
	case !was && g.active():
		gs.active = append(gs.active, g)
	case was && !g.active():
		gs.active = without(gs.active, g)
		if gs.latest == g {
			gs.latest = nil
		}
	}
	if g.active() {
		g.began, gs.latest = now, g
	}
}

// come counts, or counts no more, what a goal has that waits to be fetched.
func (gs *goals) come(g *goal, n int) {
	if g.state == waiting && g.expected > 0 {
		gs.coming += uint64(n) * g.expected
		gs.sized += n
	}
}

// quiet forgets what a goal waits for.
func (gs *goals) quiet(g *goal) {
	if g.note != "" {
		g.note = ""
		gs.noted = without(gs.noted, g)
	}
}

func without(list []*goal, g *goal) []*goal {
	if i := slices.Index(list, g); i >= 0 {
		return slices.Delete(list, i, i+1)
	}
	return list
}

func (gs *goals) planned(e nix.Event, now time.Time) {
	g := gs.get(e.Path)
	if g == nil {
		gs.unknown++
		return
	}
	if g.state == mentioned {
		g.expected = e.Expected
		gs.become(g, waiting, now)
		if g.parent == nil {
			gs.tops = append(gs.tops, g)
			g.top = true
		}
	}
	for _, p := range e.Inputs {
		if gs.edges >= maxEdges {
			break
		}
		in := gs.get(p)
		if in == nil || in == g {
			continue
		}
		g.inputs = append(g.inputs, in)
		gs.edges++
		if in.parent == nil {
			in.parent = g
		}
	}
}

func (gs *goals) started(e nix.Event, now time.Time) {
	if g := gs.get(e.Path); g != nil {
		gs.become(g, building, now)
		g.note, g.phase, g.from, g.done, g.expected, g.fetched = "", "", "", 0, 0, false
		if e.Message != "" {
			g.note = "on " + e.Message
		}
	}
}

func (gs *goals) fetchStarted(e nix.Event, now time.Time) {
	if g := gs.get(e.Path); g != nil {
		gs.become(g, fetching, now)
		g.note, g.done, g.expected, g.fetched = "", 0, e.Expected, true
		if e.Message != "" {
			g.note = "from " + e.Message
		}
	}
}

func (gs *goals) transferred(e nix.Event) {
	g := gs.byPath[e.Path]
	if g == nil || !g.active() {
		return
	}
	if g.from != e.Message {
		// The next file of the same builder.
		gs.received += g.done
		g.from = e.Message
	}
	g.done, g.expected = e.Done, e.Expected
	gs.latest = g
}

func (gs *goals) waits(e nix.Event, now time.Time) {
	g := gs.get(e.Path)
	if g == nil || g.active() {
		return
	}
	gs.become(g, waiting, now)
	if e.Message != "" && len(gs.noted) < maxNoted {
		g.note = e.Message
		gs.noted = append(gs.noted, g)
	}
}

// finished gives the goal that ended if it was one that ran, nil otherwise.
func (gs *goals) finished(e nix.Event, now time.Time) *goal {
	g := gs.byPath[e.Path]
	ran := g != nil && g.active()
	switch {
	case e.Status == nix.StatusDependencyFailed || e.Status == nix.StatusCancelled:
		gs.dropped++
	case !e.Status.Success():
		gs.failed++
	case ran && g.state == fetching:
		gs.fetched++
		g.done = max(g.done, g.expected) // nobody tells of each byte
	case ran:
		gs.built++
	}
	if g == nil {
		if gs.unknown > 0 {
			gs.unknown--
		}
		return nil
	}
	gs.become(g, ended, now)
	delete(gs.byPath, e.Path)
	gs.received += g.done
	gs.edges -= len(g.inputs)
	g.inputs, g.parent = nil, nil
	if g.top {
		if gs.over++; gs.over > len(gs.tops)/2 {
			gs.tops = slices.DeleteFunc(gs.tops, func(t *goal) bool { return t.state == ended })
			gs.over = 0
		}
	}
	if !ran {
		return nil
	}
	return g
}

// transfers sums up the downloads: bytes that have come, and bytes that there
// will be as far as is known.
func (gs *goals) transfers() (done, expected uint64, any bool) {
	done, expected, any = gs.received, gs.received+gs.coming, gs.coming > 0
	for _, g := range gs.active {
		if g.state == fetching || g.done > 0 || g.expected > 0 {
			done += g.done
			expected += max(g.done, g.expected)
			any = true
		}
	}
	return done, expected, any
}

// left is how long the rest of the downloads takes at a speed in bytes per second, if
// there is nothing else to be done and all say how large they are.
func (gs *goals) left(perSecond float64) (time.Duration, bool) {
	if gs.building > 0 || gs.built > 0 || gs.unknown > 0 || gs.waiting > gs.sized || perSecond <= 0 {
		return 0, false
	}
	for _, g := range gs.active {
		if g.expected == 0 {
			return 0, false
		}
	}
	done, expected, _ := gs.transfers()
	seconds := math.Ceil(float64(expected-done) / perSecond)
	return time.Duration(seconds) * time.Second, expected > done && seconds < longest.Seconds()
}

// longest is from how long on nobody is told how long it takes.
const longest = 100 * time.Hour

// rate measures how fast a count grows, over the last seconds.
type rate struct {
	at    [8]time.Time
	count [8]uint64
	n     int
}

// rateStep is how far apart the counts are that are kept.
const rateStep = 500 * time.Millisecond

// observe takes the count as it is now, and gives the growth per second.
func (r *rate) observe(now time.Time, count uint64) float64 {
	last := (r.n - 1 + len(r.at)) % len(r.at)
	if r.n == 0 || now.Sub(r.at[last]) >= rateStep {
		i := r.n % len(r.at)
		r.at[i], r.count[i] = now, count
		r.n++
	}
	first := 0
	if r.n >= len(r.at) {
		first = r.n % len(r.at)
	}
	d := now.Sub(r.at[first]).Seconds()
	if d < rateStep.Seconds() || count < r.count[first] {
		return 0
	}
	return float64(count-r.count[first]) / d
}
