package conf

import "time"

// transferSettings are about getting things from elsewhere.
var transferSettings = []Definition{
	{
		Name: "substitute", Aliases: []string{"build-use-substitutes"}, Type: TypeBool, Default: "true", Wire: WireField,
		Doc:   "Look in the substituters for what is missing before building it.",
		field: func(s *Settings) value { return boolean{&s.Substitute} },
	},
	{
		Name: "substituters", Aliases: []string{"binary-caches"}, Type: TypeList, Default: "https://cache.nixos.org/",
		Wire: WireOverride, Untrusted: Filtered,
		Doc: "Stores, as URIs, that are asked for what is missing. The one with the lowest priority is asked first, equal " +
			"ones in this order. A client that is not trusted may choose among these and `trusted-substituters`.",
		field: func(s *Settings) value { return list{&s.Substituters} },
	},
	{
		Name: "trusted-substituters", Aliases: []string{"trusted-binary-caches"}, Type: TypeSet, Wire: WireOverride,
		Doc: "Stores, as URIs, that clients may name as `substituters` though they are not trusted. They are not asked " +
			"unless a client does.",
		field: func(s *Settings) value { return set{&s.TrustedSubstituters} },
	},
	{
		Name: "always-allow-substitutes", Type: TypeBool, Default: "false", Wire: WireOverride,
		Doc:   "Substitute even the outputs of derivations that set `allowSubstitutes` to false.",
		field: func(s *Settings) value { return boolean{&s.AlwaysAllowSubstitutes} },
	},
	{
		Name: "fallback", Aliases: []string{"build-fallback"}, Type: TypeBool, Default: "false", Wire: WireField,
		Doc:   "Build what a substituter has but could not deliver.",
		field: func(s *Settings) value { return boolean{&s.Fallback} },
	},
	{
		Name: "max-substitution-jobs", Aliases: []string{"substitution-max-jobs"}, Type: TypeInt, Default: "16", Wire: WireOverride,
		Doc:   "How many store objects are fetched at the same time; 0 counts as 1.",
		field: func(s *Settings) value { return number[int]{&s.MaxSubstitutionJobs} },
	},
	{
		Name: "narinfo-cache-negative-ttl", Type: TypeSeconds, Default: "3600", Wire: WireOverride,
		Doc:   "For how many seconds it is remembered that a binary cache doesn't have an object.",
		field: func(s *Settings) value { return seconds(&s.NarinfoCacheNegativeTTL) },
	},
	{
		Name: "narinfo-cache-positive-ttl", Type: TypeSeconds, Default: "2592000", Wire: WireOverride,
		Doc: "For how many seconds it is remembered what a binary cache said about an object that it has. Shorten it for " +
			"caches that delete and rebuild objects.",
		field: func(s *Settings) value { return seconds(&s.NarinfoCachePositiveTTL) },
	},
	{
		Name: "narinfo-cache-meta-ttl", Type: TypeSeconds, Default: "604800", Wire: WireOverride,
		Doc:   "For how many seconds it is remembered what a binary cache says about itself.",
		field: func(s *Settings) value { return seconds(&s.NarinfoCacheMetaTTL) },
	},
	{
		Name: "hashed-mirrors", Type: TypeList, Wire: WireOverride,
		Doc: "Web servers that the built-in fetcher asks for a file by its hash, at `ALGORITHM/HASH`, before it goes to " +
			"the URL of the derivation.",
		field: func(s *Settings) value { return list{&s.HashedMirrors} },
	},
	{
		Name: "http-connections", Aliases: []string{"binary-caches-parallel-connections"}, Type: TypeInt, Default: "25", Wire: WireOverride,
		Doc:   "How many connections to web servers are open at the same time; 0 sets no limit.",
		field: func(s *Settings) value { return number[int]{&s.HTTPConnections} },
	},
	{
		Name: "http2", Type: TypeBool, Default: "true", Wire: WireOverride,
		Doc:   "Speak HTTP/2 with servers that offer it.",
		field: func(s *Settings) value { return boolean{&s.HTTP2} },
	},
	{
		Name: "connect-timeout", Type: TypeSeconds, Default: "15", Wire: WireOverride, Untrusted: Allowed,
		Doc:   "For how many seconds to try to connect to a server; 0 leaves it to the system.",
		field: func(s *Settings) value { return seconds(&s.ConnectTimeout) },
	},
	{
		Name: "stalled-download-timeout", Type: TypeSeconds, Default: "300", Wire: WireOverride,
		Doc:   "A download during which nothing arrives for this many seconds is given up.",
		field: func(s *Settings) value { return seconds(&s.StalledDownloadTimeout) },
	},
	{
		Name: "download-attempts", Aliases: []string{"filetransfer-retry-attempts"}, Type: TypeInt, Default: "5", Wire: WireOverride,
		Doc:   "How often a transfer is tried when servers or connections fail in ways that may pass.",
		field: func(s *Settings) value { return number[int]{&s.DownloadAttempts} },
	},
	{
		Name: "download-speed", Type: TypeInt, Default: "0", Wire: WireOverride,
		Doc:   "How fast a download may be, in KiB a second; 0 sets no limit.",
		field: func(s *Settings) value { return number[int]{&s.DownloadSpeed} },
	},
	{
		Name: "filetransfer-retry-delay", Type: TypeMilliseconds, Default: "100", Wire: WireOverride,
		Doc:   "How many milliseconds to wait before the second try of a transfer. Each further wait is twice as long.",
		field: func(s *Settings) value { return milliseconds(&s.RetryDelay) },
	},
	{
		Name: "filetransfer-retry-delay-rate-limited", Type: TypeMilliseconds, Default: "5000", Wire: WireOverride,
		Doc: "The same after an answer that asks for fewer requests (429 or 503). What the server asks for counts if it is " +
			"more.",
		field: func(s *Settings) value { return milliseconds(&s.RetryDelayRateLimited) },
	},
	{
		Name: "filetransfer-retry-max-delay", Type: TypeMilliseconds, Default: "60000", Wire: WireOverride,
		Doc:   "The longest wait in milliseconds that doubling leads to.",
		field: func(s *Settings) value { return milliseconds(&s.RetryMaxDelay) },
	},
	{
		Name: "filetransfer-retry-jitter", Type: TypeBool, Default: "true", Wire: WireOverride,
		Doc:   "Wait for a random part of the delay, so that many clients don't come back at the same moment.",
		field: func(s *Settings) value { return boolean{&s.RetryJitter} },
	},
	{
		Name: "netrc-file", Type: TypePath, Wire: WireOverride,
		DefaultText: "`netrc` in the configuration directory", defaultFor: defaultNetrcFile,
		Doc:   "A file with names and passwords for web servers, in the format of netrc.",
		field: func(s *Settings) value { return file{&s.NetrcFile} },
	},
	{
		Name: "ssl-cert-file", Type: TypeOptionalPath, Wire: WireOverride,
		DefaultText: "`NIX_SSL_CERT_FILE`, else `SSL_CERT_FILE`, else the first that exists of `/etc/ssl/certs/ca-certificates.crt` and `/nix/var/nix/profiles/default/etc/ssl/certs/ca-bundle.crt`",
		defaultFor:  defaultSSLCertFile,
		Doc:         "The certificates of the authorities that vouch for web servers. Fixed-output builds see the file too.",
		field:       func(s *Settings) value { return file{&s.SSLCertFile} },
	},
	{
		Name: "user-agent-suffix", Type: TypeString, Wire: WireOverride,
		Doc:   "Text that is added to how requests to web servers name their sender.",
		field: func(s *Settings) value { return plain{&s.UserAgentSuffix} },
	},
	{
		Name: "allow-loopback-downloads", Type: TypeBool, Default: "false", Own: true,
		Doc: "Let `builtin:fetchurl` fetch from servers on the machine itself (127.0.0.1, ::1) if a derivation asks for it. " +
			"What listens there often trusts whoever can reach it. Proxies and `hashed-mirrors` may always be there.",
		field: func(s *Settings) value { return boolean{&s.AllowLoopbackDownloads} },
	},
}

func seconds(p *time.Duration) duration      { return duration{p, time.Second} }
func milliseconds(p *time.Duration) duration { return duration{p, time.Millisecond} }
