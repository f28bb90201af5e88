package main

import (
	"fmt"

	"github.com/kilnbuild/kiln/nix/conf"
)

// notYet are settings that this version reads but does not act on. Whoever gave
// one is told, since a build may otherwise not be what they think it is.
var notYet = []string{
	"external-builders",
	"sync-before-registering",
}

// warnNotYet gives a warning for each setting that somebody gave and that does
// nothing.
func warnNotYet(s *conf.Settings) (warnings []conf.Warning) {
	for _, name := range notYet {
		value, ok := s.Value(name)
		if !ok || !s.Overridden(name) || value == "" || value == "false" || value == "0" {
			continue
		}
		warnings = append(warnings, conf.Warning{Source: s.Source(name), Text: fmt.Sprintf("setting '%s' has no effect in this version of kiln", name)})
	}
	return warnings
}
