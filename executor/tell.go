package executor

import (
	"strings"

	"github.com/kilnbuild/kiln/nix"
)

func (r *request) print(p nix.StorePath) string { return r.store.Dir().Join(p) }

func (r *request) event(kind nix.EventKind, p nix.StorePath, message string) {
	r.log.Event(nix.Event{Kind: kind, Path: p, Message: message})
}

// told tells of the end of a goal, and passes its outcome on.
func (r *request) told(drvPath nix.StorePath, out outcome) outcome {
	e := nix.Event{Kind: nix.EventFinished, Path: drvPath, Status: out.result.Status}
	switch {
	case out.err != nil:
		e.Status = nix.StatusCancelled
	case out.result.Status == nix.StatusDependencyFailed:
		e.Message = "a dependency failed"
	case !out.result.Status.Success():
		e.Message = briefly(out.result.Message)
	}
	r.log.Event(e)
	return out
}

// briefly gives the reason out of the message of a failure.
func briefly(message string) string {
	reason, rest, _ := strings.Cut(message, "\n")
	if line, _, _ := strings.Cut(rest, "\n"); strings.HasPrefix(line, "Reason: ") {
		reason = strings.TrimSuffix(strings.TrimPrefix(line, "Reason: "), ".")
	}
	return reason
}
