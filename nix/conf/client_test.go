package conf

import (
	"maps"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestForwardedIsWhatTheUserGave(t *testing.T) {
	s := enabled()
	for _, a := range []assignment{
		{"log-lines", "1", Source{FromSystem, "/etc/nix/nix.conf", 1}}, // the daemon reads that itself
		{"ssl-cert-file", "/e", Source{FromEnvironment, "SSL_CERT_FILE", 0}},
		{"timeout", "7", Source{FromUser, "/home/u/nix.conf", 1}},
		{"connect-timeout", "3", Source{FromNixConfig, "NIX_CONFIG", 1}},
		{"extra-sandbox-paths", "/x", Source{Kind: FromCommandLine, Name: "--option"}},
		{"max-jobs", "3", Source{Kind: FromCommandLine, Name: "--max-jobs"}},     // has a place of its own
		{"trusted-users", "me", Source{Kind: FromCommandLine, Name: "--option"}}, // the daemon's own
		{"show-trace", "true", Source{Kind: FromCommandLine, Name: "--option"}},
		{"experimental-features", "flakes", Source{Kind: FromCommandLine, Name: "--option"}},
		{"require-limits", "true", Source{Kind: FromCommandLine, Name: "--option"}}, // Nix would not know it
	} {
		if _, err := s.Set(a.name, a.value, a.source); err != nil {
			t.Fatal(err)
		}
	}
	want := map[string]string{"timeout": "7", "connect-timeout": "3", "sandbox-paths": "/x"}
	if diff := cmp.Diff(want, maps.Collect(s.Forwarded())); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestSetFromClient(t *testing.T) {
	restricted := func(name string) []string {
		return []string{"ignoring the client-specified setting '" + name + "', because it is a restricted setting and you are not a trusted user"}
	}
	untrusted := func(uri string) string {
		return "ignoring untrusted substituter '" + uri + "', you are not a trusted user.\n" +
			"Run `man nix.conf` for more information on the `substituters` configuration option."
	}
	plugins := []string{"Ignoring the client-specified plugin-files.\n" +
		"The client specifying plugins to the daemon never made sense, and was removed in Nix >=2.14."}
	for _, tt := range []struct {
		name, text string
		trusted    bool
		warnings   []string
		at, want   string // a setting and what it is afterwards
	}{
		{"timeout", "7", false, nil, "timeout", "7"},
		{"max-silent-time", "7", false, nil, "max-silent-time", "7"},
		{"build-poll-interval", "7", false, nil, "build-poll-interval", "7"},
		{"connect-timeout", "7", false, nil, "connect-timeout", "7"},
		{"timeout", "x", false, []string{"setting 'timeout' has invalid value 'x'"}, "timeout", "0"},
		{"build-timeout", "7", false, restricted("build-timeout"), "timeout", "0"},
		{"builders", "", false, nil, "builders", ""},
		{"builders", "ssh://mac", false, restricted("builders"), "builders", "@/nonexistent/machines"},
		{"sandbox", "false", false, restricted("sandbox"), "sandbox", "true"},
		{"sandbox-fallback", "true", false, restricted("sandbox-fallback"), "sandbox-fallback", "false"},
		{"extra-sandbox-paths", "/", false, restricted("extra-sandbox-paths"), "sandbox-paths", ""},
		{"require-sigs", "false", false, restricted("require-sigs"), "require-sigs", "true"},
		{"trusted-public-keys", "k:x", false, restricted("trusted-public-keys"), "require-sigs", "true"},
		{"trusted-substituters", "x://", false, restricted("trusted-substituters"), "trusted-substituters", "https://there/ https://two"},
		{"trusted-users", "*", false, restricted("trusted-users"), "trusted-users", "root"},
		{"recursive-nix-fixed-output", "allow", false, restricted("recursive-nix-fixed-output"), "recursive-nix-fixed-output", "offline"},
		{"no-such-setting", "1", false, restricted("no-such-setting"), "timeout", "0"},
		{"ssh-auth-sock", "/x", false, nil, "timeout", "0"},
		{"experimental-features", "flakes", false, nil, "experimental-features", ""},
		{"plugin-files", "/x", false, plugins, "plugin-files", ""},
		{"substituters", "https://there https://two https://cache.nixos.org?priority=1 https://evil/", false,
			[]string{untrusted("https://cache.nixos.org?priority=1"), untrusted("https://evil/")}, "substituters", "https://there/ https://two"},
		{"binary-caches", "https://cache.nixos.org", false, nil, "substituters", "https://cache.nixos.org/"},
		{"substituters", "https://evil/", false, []string{untrusted("https://evil/")}, "substituters", ""},
		{"extra-substituters", "https://evil", false, restricted("extra-substituters"), "substituters", "https://cache.nixos.org/"},
		{"extra-substituters", "https://two", false, nil, "substituters", "https://cache.nixos.org/"},
		{"sandbox", "true", false, nil, "sandbox", "true"},
		{"require-sigs", "yes", false, nil, "require-sigs", "true"},
		{"extra-sandbox-paths", "", false, nil, "sandbox-paths", ""},
		{"trusted-public-keys", "", false, nil, "require-sigs", "true"},
		{"extra-trusted-public-keys", "k:x", false, restricted("extra-trusted-public-keys"), "require-sigs", "true"},
		{"trusted-public-keys", "cache.nixos.org-1:6NCHdD59X431o0gWypbMrAURkbJ16ZPMQFGspcDShjY=", false, nil, "require-sigs", "true"},
		{"trusted-substituters", "https://two", false, nil, "trusted-substituters", "https://there/ https://two"},
		{"plugin-files", "", false, nil, "plugin-files", ""},
		{"substituters", "https://two/", false, []string{untrusted("https://two/")}, "substituters", ""},

		{"sandbox", "false", true, nil, "sandbox", "false"},
		{"build-timeout", "7", true, nil, "timeout", "7"},
		{"extra-sandbox-paths", "/x", true, nil, "sandbox-paths", "/x"},
		{"sandbox", "maybe", true, []string{"option 'sandbox' has invalid value 'maybe' (expected 'true', 'relaxed', or 'false')"}, "sandbox", "true"},
		{"substituters", "https://evil/", true, nil, "substituters", "https://evil/"},
		{"no-such-setting", "1", true, nil, "timeout", "0"},
		{"trusted-users", "*", true, nil, "trusted-users", "root"},
		{"extra-allowed-users", "x", true, nil, "allowed-users", "*"},
		{"recursive-nix-fixed-output", "allow", true, nil, "recursive-nix-fixed-output", "offline"},
		{"experimental-features", "flakes", true, nil, "experimental-features", ""},
		{"extra-experimental-features", "flakes", true, nil, "experimental-features", ""},
		{"plugin-files", "/x", true, plugins, "plugin-files", ""},
	} {
		s := New(goldenMachine())
		if _, err := s.Set("trusted-substituters", "https://there/ https://two", Source{Kind: FromSystem, Name: "/etc/nix/nix.conf", Line: 1}); err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, w := range s.SetFromClient(tt.name, tt.text, tt.trusted) {
			got = append(got, w.Text)
		}
		if diff := cmp.Diff(tt.warnings, got); diff != "" {
			t.Errorf("%s = %s (trusted %v): warnings (-want +got)\n%s", tt.name, tt.text, tt.trusted, diff)
		}
		if v, _ := s.Value(tt.at); v != tt.want {
			t.Errorf("%s = %s (trusted %v): %s is %q, want %q", tt.name, tt.text, tt.trusted, tt.at, v, tt.want)
		}
	}
}
