package conf

import (
	"fmt"
	"iter"
	"slices"
	"strings"
)

// Forwarded lists what a client tells a daemon beyond the fixed fields of
// SetOptions, sorted by name: the settings that the user gave, in a file of their
// own, in NIX_CONFIG or on the command line. The daemon has its own view of the
// rest (worker protocol, SetOptions).
func (s *Settings) Forwarded() iter.Seq2[string, string] {
	return func(yield func(name, value string) bool) {
		for e := range s.All() {
			if e.Wire == WireOverride && e.Source.Kind >= FromUser && !yield(e.Name, e.Value) {
				return
			}
		}
	}
}

// SetFromClient applies an override that a client of the daemon sent, as far as
// that client may. What it may not, and what cannot be read, comes back as
// warnings for the client, in the words of Nix; the connection goes on. Settings
// that are nobody's but the daemon's, such as trusted-users, stay as they are
// whoever asks, and so do unknown ones. s is the connection's own Clone.
func (s *Settings) SetFromClient(name, text string, trusted bool) []Warning {
	client := Source{Kind: FromClient, Name: "client"}
	warn := func(format string, args ...any) []Warning {
		return []Warning{{client, fmt.Sprintf(format, args...)}}
	}
	switch name {
	case "ssh-auth-sock", "experimental-features":
		return nil // the first is of old clients, the second is each side's own
	case "plugin-files":
		if s.unchanged(name, text) {
			return nil
		}
		return warn("Ignoring the client-specified plugin-files.\n" +
			"The client specifying plugins to the daemon never made sense, and was removed in Nix >=2.14.")
	}
	i, _, known := find(name)
	if trusted {
		if !known || definitions[i].Wire == WireNever {
			return nil
		}
		warnings, err := s.Set(name, text, client)
		if err != nil {
			return warn("%v", err)
		}
		return warnings
	}

	permission := Refused
	if known {
		permission = definitions[i].Untrusted
	}
	switch {
	case permission == Filtered && !strings.HasPrefix(name, "extra-"):
		var warnings []Warning
		s.Substituters, warnings = s.trustedOnly(text, client)
		s.entries[i].source = client
		return warnings
	// Aliases are refused: Nix compares with the one name only.
	case known && name == definitions[i].Name && (permission == Allowed || permission == EmptyOK && text == ""):
		if _, err := s.Set(name, text, client); err != nil {
			return warn("%v", err)
		}
		return nil
	}
	if known && s.unchanged(name, text) {
		return nil // what it asks for is so
	}
	return warn("ignoring the client-specified setting '%s', because it is a restricted setting and you are not a trusted user", name)
}

// unchanged tells whether a setting would be as it is with the value that a client
// wants. Of keys and substituters that are trusted a client may want fewer: who trusts
// more does no harm to it.
func (s *Settings) unchanged(name, text string) bool {
	i, _, ok := find(name)
	if !ok {
		return false
	}
	before := s.entries[i].value.text()
	c := s.Clone()
	if _, err := c.Set(name, text, Source{Kind: FromClient, Name: "client"}); err != nil {
		return false
	}
	after := c.entries[i].value.text()
	switch definitions[i].Name {
	case "trusted-public-keys", "trusted-substituters":
		return subset(words(after), words(before))
	case "substituters":
		return subset(words(after), append(words(before), s.TrustedSubstituters...))
	}
	return before == after
}

func subset(some, all []string) bool {
	return !slices.ContainsFunc(some, func(word string) bool { return !slices.Contains(all, word) })
}

// trustedOnly gives those substituters of a client's list that this side's
// settings name too, for everybody or for whoever asks. One that differs by a
// missing slash at the end counts, and gets it.
func (s *Settings) trustedOnly(text string, client Source) ([]string, []Warning) {
	ours := newStringSet(append(append([]string(nil), s.Substituters...), s.TrustedSubstituters...))
	var kept []string
	var warnings []Warning
	for _, uri := range words(text) {
		base, _, _ := strings.Cut(uri, "?")
		slashed := uri
		if !strings.HasSuffix(base, "/") {
			slashed = base + "/" + uri[len(base):]
		}
		switch {
		case ours.Has(uri):
			kept = append(kept, uri)
		case ours.Has(slashed):
			kept = append(kept, slashed)
		default:
			warnings = append(warnings, Warning{client, fmt.Sprintf(
				"ignoring untrusted substituter '%s', you are not a trusted user.\n"+
					"Run `man nix.conf` for more information on the `substituters` configuration option.", uri)})
		}
	}
	return kept, warnings
}
