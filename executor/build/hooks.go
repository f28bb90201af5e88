package build

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/kilnbuild/kiln/executor/hook"
	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/sandbox"
)

// Hooks are programs of the operator's that have a part in builds; "" for none.
type Hooks struct {
	PreBuild  string // pre-build-hook: may add to the sandbox
	PostBuild string // post-build-hook: is told what was built
	Diff      string // diff-hook: shows how outputs differ
	// Config is what PostBuild finds in NIX_CONFIG.
	Config  string
	Timeout time.Duration // of each; 0 for none
}

// preBuildHook gives what the operator's program adds to the sandbox.
func (r *run) preBuildHook(ctx context.Context) ([]SandboxPath, error) {
	s := r.settings
	if s.Hooks.PreBuild == "" {
		return nil, nil
	}
	root := ""
	if r.isolation == sandbox.Full {
		root = r.work.root
	}
	drv := r.machine.Store.Dir().Join(r.attempt.DrvPath)
	r.notice(nix.EventDiagnostic, fmt.Sprintf("executing pre-build hook '%s'", s.Hooks.PreBuild))
	answer, err := hook.PreBuild{Program: s.Hooks.PreBuild, Drv: drv, Root: root, Timeout: s.Hooks.Timeout}.Run(ctx)
	if err != nil {
		return nil, r.hookFailed(ctx, "pre-build-hook", err)
	}
	if answer.Log != "" {
		r.notice(nix.EventNotice, answer.Log)
	}
	var added []SandboxPath
	for _, p := range answer.Paths {
		added = append(added, SandboxPath(p))
	}
	return added, nil
}

// diffHook shows by the operator's program how an output differs from what there
// is. What comes of it changes nothing.
func (r *run) diffHook(ctx context.Context, d *nix.OutputDifference) error {
	st, s := r.machine.Store, r.settings
	shown := hook.Diff{
		Program: s.Hooks.Diff, Old: st.RealPath(d.Path), New: st.RealPath(d.Kept), Drv: st.Dir().Join(r.attempt.DrvPath),
		TmpDir: r.work.inner, UID: r.user.UID, GID: r.user.GID, Timeout: s.Hooks.Timeout,
	}.Run(ctx)
	if err := context.Cause(ctx); err != nil {
		return err
	}
	if len(shown.Output) > 0 {
		text := string(shown.Output)
		if shown.Truncated {
			text += "\n…"
		}
		r.notice(nix.EventNotice, text)
	}
	if shown.Failure != nil {
		r.notice(nix.EventWarning, shown.Failure.Error())
	}
	return nil
}

// postBuildHook tells the operator's program what was built. It is told of what was
// only checked too, as with Nix: somebody may count builds that are reproducible.
func (r *run) postBuildHook(ctx context.Context, made map[nix.OutputName]nix.Realisation) error {
	s, dir := r.settings, r.machine.Store.Dir()
	if s.Hooks.PostBuild == "" {
		return nil
	}
	var outputs []string
	for _, o := range made {
		outputs = append(outputs, dir.Join(o.OutPath))
	}
	r.notice(nix.EventDiagnostic, fmt.Sprintf("running post-build-hook '%s'", s.Hooks.PostBuild))
	err := hook.PostBuild{
		Program: s.Hooks.PostBuild, Drv: dir.Join(r.attempt.DrvPath), Outputs: outputs, Config: s.Hooks.Config,
		Output: hookLines{r}, Timeout: s.Hooks.Timeout,
	}.Run(ctx)
	if err != nil {
		return r.hookFailed(ctx, "post-build-hook", err)
	}
	return nil
}

// hookFailed is the failure of a build whose hook failed.
func (r *run) hookFailed(ctx context.Context, name string, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	drv := r.machine.Store.Dir().Join(r.attempt.DrvPath)
	note := ""
	if errors.Is(err, hook.ErrTimedOut) {
		note = "\nHint: hook-timeout says how long a hook may take"
	}
	return nix.BuildErrorf(nix.StatusMiscFailure, "%s for '%s': %v%s", name, drv, err, note)
}

func (r *run) notice(kind nix.EventKind, text string) {
	r.attempt.Log.Event(nix.Event{Kind: kind, Path: r.attempt.DrvPath, Message: text})
}

// hookLines passes on what a post-build-hook prints, a line a call.
type hookLines struct{ run *run }

func (h hookLines) Write(line []byte) (int, error) {
	text := line
	if n := len(text); n > 0 && text[n-1] == '\n' {
		text = text[:n-1]
	}
	h.run.notice(nix.EventNotice, fmt.Sprintf("post-build-hook: %s", text))
	return len(line), nil
}
