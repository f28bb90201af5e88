package build

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"time"

	"github.com/kilnbuild/kiln/executor/hook"
	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/logline"
)

// Elsewhere offers the attempt to the program of build-hook, which passes builds on
// to other machines. The verdict says whether that takes it. If it does, the
// outputs are in the store when Elsewhere returns, or so the program says: the
// result has none. willing says that it could be built here at once.
//
// The caller holds the locks of the outputs that are known; no slot is needed.
func (m *Machine) Elsewhere(ctx context.Context, pool *hook.Pool, a *Attempt, s *Settings, willing bool) (_ hook.Verdict, _ *Result, err error) {
	kind, err := a.Drv.Kind()
	if err != nil {
		return 0, nil, err
	}
	dir := m.Store.Dir()
	request := hook.Request{
		Drv: dir.Join(a.DrvPath), System: a.Drv.System, Features: a.Options.Features(kind), Willing: willing,
		Message: func(message logline.Message) { tellHookMessage(a, message) },
		Text: func(line string) {
			a.Log.Event(nix.Event{Kind: nix.EventNotice, Path: a.DrvPath, Message: line})
		},
	}
	for in := range a.Closure {
		request.Inputs = append(request.Inputs, dir.Join(in))
	}
	slices.Sort(request.Inputs)
	for _, name := range a.Drv.OutputNames() {
		if !a.Known[name].Valid {
			request.Outputs = append(request.Outputs, string(name))
		}
	}
	log := &elsewhereLog{machine: m, attempt: a, settings: s, tail: &logTail{max: s.LogLines}, maxLog: a.limits(s).Log}
	defer func() { err = errors.Join(err, log.Close()) }()
	request.Log = log

	verdict, running, err := pool.Try(ctx, request)
	if err != nil || verdict != hook.Accepted {
		return verdict, nil, err
	}
	a.Log.Event(nix.Event{Kind: nix.EventStarted, Path: a.DrvPath, Message: running.Machine()})
	result := &Result{Start: time.Now()}
	err = running.Wait(ctx)
	result.Stop, result.LogTail = time.Now(), log.tail.Lines()
	var exit *hook.ExitError
	if errors.As(err, &exit) {
		// What it says may be why no builder ran, which is in no log.
		note := ""
		if exit.Output != "" {
			note = "\n" + colour.ReplaceAllString(exit.Output, "")
		}
		return verdict, result, &BuilderError{Status: nix.StatusMiscFailure, Reason: exit.How(), Note: note}
	}
	return verdict, result, err
}

// colour is how Nix marks words in what it says.
var colour = regexp.MustCompile("\x1b\\[[0-9;]*m")

// tellHookMessage passes on what a build hook says to people.
func tellHookMessage(a *Attempt, m logline.Message) {
	e := nix.Event{Path: a.DrvPath, Message: m.Text}
	switch {
	case m.Action == logline.Msg && m.Level <= logline.Warn:
		e.Kind = nix.EventWarning
	case m.Action == logline.Msg && m.Level <= logline.Info:
		e.Kind = nix.EventNotice
	case m.Text != "":
		e.Kind = nix.EventDiagnostic
	default:
		return
	}
	a.Log.Event(e)
}

// elsewhereLog takes the log of a builder on another machine. The log in the store
// is begun when the first of it comes: most offers are declined.
type elsewhereLog struct {
	machine  *Machine
	attempt  *Attempt
	settings *Settings
	tail     *logTail
	file     logFile
	shown    *shownLog
	size     int64
	maxLog   int64 // 0 for no limit
}

func (l *elsewhereLog) Write(p []byte) (int, error) {
	if l.file == nil {
		file, err := createLog(l.machine, l.attempt, l.settings)
		if err != nil {
			return 0, err
		}
		l.file = file
		l.shown = &shownLog{drv: l.attempt.DrvPath, sink: l.attempt.Log, tail: l.tail}
	}
	if l.size += int64(len(p)); l.maxLog > 0 && l.size > l.maxLog {
		return 0, nix.BuildErrorf(nix.StatusLogLimitExceeded, "building derivation '%s' killed after writing more than %d bytes of log output",
			l.machine.Store.Dir().Join(l.attempt.DrvPath), l.maxLog).Because(nix.Failure{Kind: nix.FailureLogSize, Limit: l.maxLog, Peak: l.size})
	}
	l.shown.Write(p)
	if _, err := l.file.Write(p); err != nil {
		return 0, fmt.Errorf("write build log: %w", err)
	}
	return len(p), nil
}

func (l *elsewhereLog) Close() error {
	if l.file == nil {
		return nil
	}
	l.shown.Flush()
	return l.file.Close()
}
