package main

import "github.com/kilnbuild/kiln/nix"

// hint says what a person may do about a result, "" where there is nothing to add
// to its message.
func hint(r *nix.BuildResult) string {
	if r.KeptSandbox != "" {
		return "`kiln enter " + r.KeptSandbox + "` gives you a shell in its sandbox, as the builder has left it"
	}
	switch r.Status {
	case nix.StatusPermanentFailure:
		if r.KeptBuildDir != "" {
			return "the build directory with everything that the builder left is '" + r.KeptBuildDir + "'"
		}
		return "with --keep-failed the build directory is kept for you to look at"
	case nix.StatusTransientFailure:
		return "what the builder needed may have been out of reach just now: try again"
	case nix.StatusTimedOut:
		return "if the builder needs longer, give it longer with --timeout or --max-silent-time (seconds, 0 for no limit)"
	case nix.StatusLogLimitExceeded:
		return "if a builder may print so much, raise max-build-log-size (bytes, 0 for no limit)"
	case nix.StatusHashMismatch:
		return "if what came is what you want, put the hash after 'got:' into the derivation"
	case nix.StatusNotDeterministic:
		for _, d := range r.Differences {
			if d.Kept != "" {
				return "the output that is different is kept beside the valid one, with .check after its name"
			}
		}
		return "with --keep-failed the output that is different is kept beside the valid one"
	case nix.StatusInputRejected:
		return "`kiln doctor` says what this machine can build; systems and features are extra-platforms and system-features in nix.conf"
	case nix.StatusOutputRejected:
		return "with --keep-failed the build directory is kept for you to look at; what the derivation demands of its outputs stands in `kiln derivation show`"
	case nix.StatusNoSubstituters:
		return "it is in no store that is configured: build or copy it first"
	case nix.StatusDependencyFailed:
		return "with --keep-going everything that does not depend on the failure is built all the same"
	case nix.StatusMiscFailure, nix.StatusCachedFailure:
		return "-vv says more of what was done before"
	}
	return ""
}

// withHint is the message of a failure with what may be done about it.
func withHint(r *nix.BuildResult) string {
	if h := hint(r); h != "" {
		return r.Message + "\nhint: " + h
	}
	return r.Message
}
