package service

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/conf"
	"github.com/kilnbuild/kiln/wire/worker"
)

// apply changes settings as a client wants them, as far as it may, and gives warnings
// for the client. (Nix: ClientSettings::apply.)
func apply(s *conf.Settings, o *worker.SetOptions, trusted bool) []conf.Warning {
	s.KeepFailed, s.KeepGoing, s.Fallback = o.KeepFailed, o.KeepGoing, o.TryFallback
	s.MaxJobs = clamp(o.MaxBuildJobs)
	s.Cores = clamp(o.BuildCores)
	s.MaxSilentTime = time.Duration(clamp(o.MaxSilentTime)) * time.Second
	s.Substitute = o.UseSubstitute
	overrides := slices.Clone(o.Overrides)
	slices.SortStableFunc(overrides, func(a, b worker.Override) int { return cmp.Compare(a.Name, b.Name) })
	var warnings []conf.Warning
	for _, v := range overrides {
		warnings = append(warnings, s.SetFromClient(v.Name, v.Value, trusted)...)
	}
	return warnings
}

// clamp keeps numbers within what a setting can have.
func clamp(n uint64) int { return int(min(n, 1<<31-1)) }

// setOptions is daemon.Config.SetOptions of a connection.
func (c *connection) setOptions(_ context.Context, o *worker.SetOptions, log nix.LogSink) (nix.Builder, error) {
	s := c.generation.settings.Clone()
	for _, w := range apply(s, o, c.client.Trust == worker.Trusted) {
		log.Event(nix.Event{Kind: nix.EventWarning, Message: w.Text})
	}
	if err := c.use(s, o.VerboseBuild); err != nil {
		return nil, err
	}
	return c.serving(), nil
}
