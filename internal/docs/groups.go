package docs

// A group is a section of the page of settings.
type group struct {
	title string
	names []string
}

// groups has each setting that is honoured, once.
var groups = []group{
	{"What is built here", []string{
		"system", "extra-platforms", "system-features", "experimental-features", "max-jobs", "cores", "build-poll-interval",
	}},
	{"Limits", []string{
		"timeout", "max-silent-time", "max-build-log-size", "build-memory-max", "build-processes-max", "build-cpu-weight",
		"build-cpu-quota", "build-output-max", "build-dir-max", "use-cgroups", "require-limits",
	}},
	{"The executor service", []string{"service-roles", "service-retention"}},
	{"Failures and logs", []string{"keep-going", "keep-failed", "log-lines", "keep-build-log", "compress-build-log"}},
	{"The sandbox", []string{
		"sandbox", "sandbox-fallback", "sandbox-paths", "sandbox-build-dir", "sandbox-dev-shm-size", "filter-syscalls",
		"allow-new-privileges", "impersonate-linux-26", "allowed-impure-host-deps", "impure-env",
	}},
	{"The network of builds", []string{"user-network", "user-network-program", "recursive-nix-fixed-output"}},
	{"Who builds, and where", []string{
		"build-users-group", "auto-allocate-uids", "start-id", "id-count", "require-drop-supplementary-groups", "build-dir",
	}},
	{"Hooks", []string{"pre-build-hook", "post-build-hook", "diff-hook", "run-diff-hook", "hook-timeout"}},
	{"Other machines", []string{"builders", "build-hook", "build-hook-kill-timeout", "builders-use-substitutes"}},
	{"Downloads", []string{
		"allow-loopback-downloads", "hashed-mirrors", "netrc-file", "ssl-cert-file", "user-agent-suffix", "connect-timeout",
		"stalled-download-timeout", "download-attempts", "download-speed", "filetransfer-retry-delay",
		"filetransfer-retry-delay-rate-limited", "filetransfer-retry-max-delay", "filetransfer-retry-jitter", "http-connections", "http2",
	}},
	{"The store", []string{
		"store", "allow-symlinked-store", "auto-optimise-store", "fsync-metadata", "fsync-store-paths", "sync-before-registering",
		"use-sqlite-wal", "ignored-acls",
	}},
	{"Substituters", []string{
		"substitute", "substituters", "trusted-substituters", "always-allow-substitutes", "fallback", "max-substitution-jobs",
		"narinfo-cache-negative-ttl", "narinfo-cache-positive-ttl", "narinfo-cache-meta-ttl",
	}},
	{"Signatures and users", []string{"require-sigs", "trusted-public-keys", "secret-key-files", "allowed-users", "trusted-users"}},
	{"Garbage", []string{
		"keep-derivations", "keep-outputs", "gc-reserved-space", "min-free", "max-free", "min-free-check-interval",
	}},
}
