package progress

import (
	"bytes"
	"fmt"
	"slices"
	"time"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/logline"
)

// machineVoice speaks to programs, as Nix does with --log-format internal-json:
// activities that start, have results, and stop. Their ids are names within one
// stream.
type machineVoice struct {
	next                          uint64
	realise, builds, copies       uint64
	activities                    map[nix.StorePath]*activities
	expected                      uint64 // bytes of store objects, as last told
	builtProgress, copiedProgress [4]uint64
}

// activities are those of one goal that are under way; 0 for none.
type activities struct {
	build, substitute, copyPath, file, wait uint64

	url string // of file
}

// ids lists them, parts before what they are part of.
func (a *activities) ids() []*uint64 {
	return []*uint64{&a.wait, &a.file, &a.copyPath, &a.substitute, &a.build}
}

func newMachineVoice() *machineVoice {
	return &machineVoice{activities: make(map[nix.StorePath]*activities)}
}

func (m *machineVoice) of(p nix.StorePath) *activities {
	a := m.activities[p]
	if a == nil {
		a = &activities{}
		m.activities[p] = a
	}
	return a
}

func (m *machineVoice) event(d *Display, e nix.Event, _ *goal, _ time.Time) {
	m.begin(d)
	switch e.Kind {
	case nix.EventStarted:
		a := m.of(e.Path)
		m.stop(d, &a.wait)
		m.startBuild(d, a, e.Path, e.Message)
	case nix.EventFetching:
		a := m.of(e.Path)
		m.stop(d, &a.wait)
		path := d.opts.Dir.Join(e.Path)
		a.substitute = m.start(d, 0, logline.Substitute, logline.Error, "", logline.Text(path), logline.Text(e.Message))
		a.copyPath = m.start(d, a.substitute, logline.CopyPath, logline.Info, fmt.Sprintf("copying path '%s' from '%s'", path, e.Message),
			logline.Text(path), logline.Text(e.Message), logline.Text("local"))
		m.expected += e.Expected
		m.result(d, m.realise, logline.SetExpected, logline.Int(uint64(logline.CopyPath)), logline.Int(m.expected))
	case nix.EventTransfer:
		m.transfer(d, e)
	case nix.EventWaiting:
		a := m.of(e.Path)
		m.stop(d, &a.wait)
		a.wait = m.start(d, 0, logline.BuildWaiting, logline.Warn, e.Message)
	case nix.EventPhase:
		if a := m.activities[e.Path]; a != nil && a.build != 0 {
			m.result(d, a.build, logline.PhaseSet, logline.Text(e.Message))
		}
	case nix.EventFinished:
		if a := m.activities[e.Path]; a != nil {
			for _, id := range a.ids() {
				m.stop(d, id)
			}
			delete(m.activities, e.Path)
		}
	case nix.EventWarning:
		m.message(d, logline.Warn, "\x1b[35;1mwarning:\x1b[0m "+e.Message)
	case nix.EventNotice:
		m.message(d, logline.Notice, e.Message)
	case nix.EventDiagnostic:
		m.message(d, logline.Talkative, e.Message)
	}
	switch e.Kind {
	case nix.EventStarted, nix.EventFetching, nix.EventFinished:
		m.totals(d)
	}
}

// begin starts the activities that all others are part of.
func (m *machineVoice) begin(d *Display) {
	if m.realise == 0 {
		m.realise = m.start(d, 0, logline.Realise, logline.Error, "")
		m.builds = m.start(d, 0, logline.Builds, logline.Error, "")
		m.copies = m.start(d, 0, logline.CopyPaths, logline.Error, "")
	}
}

func (m *machineVoice) startBuild(d *Display, a *activities, drv nix.StorePath, machine string) {
	text := fmt.Sprintf("building '%s'", d.opts.Dir.Join(drv))
	if machine != "" {
		text += fmt.Sprintf(" on '%s'", machine)
	}
	// The last two are the number of this round and of all, of times in which Nix
	// could repeat builds.
	a.build = m.start(d, 0, logline.Build, logline.Info, text,
		logline.Text(d.opts.Dir.Join(drv)), logline.Text(machine), logline.Int(1), logline.Int(1))
}

func (m *machineVoice) transfer(d *Display, e nix.Event) {
	a := m.of(e.Path)
	id := a.copyPath
	if id == 0 {
		// A builder that downloads.
		if a.file != 0 && a.url != e.Message {
			m.stop(d, &a.file)
		}
		if a.file == 0 {
			a.url = e.Message
			a.file = m.start(d, a.build, logline.FileTransfer, logline.Error, fmt.Sprintf("downloading '%s'", e.Message), logline.Text(e.Message))
		}
		id = a.file
	}
	m.progress(d, id, e.Done, e.Expected, 0, 0)
}

// totals tells how many goals there are, when that has changed.
func (m *machineVoice) totals(d *Display) {
	gs := d.goals
	built := [4]uint64{uint64(gs.built), uint64(gs.built + gs.building + gs.waiting + gs.unknown), uint64(gs.building), uint64(gs.failed)}
	if built != m.builtProgress {
		m.builtProgress = built
		m.progress(d, m.builds, built[0], built[1], built[2], built[3])
	}
	copied := [4]uint64{uint64(gs.fetched), uint64(gs.fetched + gs.fetching), uint64(gs.fetching), 0}
	if copied != m.copiedProgress {
		m.copiedProgress = copied
		m.progress(d, m.copies, copied[0], copied[1], copied[2], copied[3])
	}
}

func (m *machineVoice) line(d *Display, drv nix.StorePath, line []byte) {
	m.begin(d)
	a := m.of(drv)
	if a.build == 0 {
		m.startBuild(d, a, drv, "")
	}
	m.result(d, a.build, logline.BuildLogLine, logline.Text(string(bytes.TrimRight(line, "\r"))))
}

func (m *machineVoice) say(d *Display, text string) { m.message(d, logline.Info, text) }

// end stops what is under way, the newest first: parts go before what they are
// part of.
func (m *machineVoice) end(d *Display) {
	ids := []uint64{m.realise, m.builds, m.copies}
	for _, a := range m.activities {
		for _, id := range a.ids() {
			ids = append(ids, *id)
		}
	}
	clear(m.activities)
	slices.Sort(ids)
	for _, id := range slices.Backward(ids) {
		m.stop(d, &id)
	}
	m.copies, m.builds, m.realise = 0, 0, 0
}

func (m *machineVoice) message(d *Display, level logline.Level, text string) {
	m.write(d, logline.Message{Action: logline.Msg, Level: level, Text: text})
}

// start begins an activity.
func (m *machineVoice) start(d *Display, parent uint64, kind logline.Activity, level logline.Level, text string, fields ...logline.Field) uint64 {
	m.next++
	m.write(d, logline.Message{Action: logline.Start, ID: m.next, Parent: parent, Level: level, Type: kind, Text: text, Fields: fields})
	return m.next
}

// stop ends an activity, if there is one.
func (m *machineVoice) stop(d *Display, id *uint64) {
	if *id != 0 {
		m.write(d, logline.Message{Action: logline.Stop, ID: *id})
		*id = 0
	}
}

func (m *machineVoice) result(d *Display, id uint64, kind logline.Outcome, fields ...logline.Field) {
	m.write(d, logline.Message{Action: logline.Result, ID: id, Result: kind, Fields: fields})
}

// progress tells the numbers of an activity.
func (m *machineVoice) progress(d *Display, id, done, expected, running, failed uint64) {
	m.result(d, id, logline.Progress, logline.Int(done), logline.Int(expected), logline.Int(running), logline.Int(failed))
}

func (m *machineVoice) write(d *Display, msg logline.Message) { d.pending = msg.Append(d.pending) }
