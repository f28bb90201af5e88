package conf

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
)

// machine has files by their absolute names.
func machine(files, vars map[string]string) Environment {
	m := fstest.MapFS{}
	for name, text := range files {
		m[strings.TrimPrefix(name, "/")] = &fstest.MapFile{Data: []byte(text)}
	}
	return Environment{
		Lookup: variables(vars), Files: m, OS: "linux", Arch: "amd64", UID: 1000, CPUs: 4,
		Home: "/home/u", Dir: "/cwd",
	}
}

func TestLaterSourcesWin(t *testing.T) {
	files := map[string]string{
		"/etc/nix/nix.conf":              "log-lines = 1\ncores = 1\ntimeout = 1\nmax-jobs = 1\nmin-free = 1\nmax-free = 1\nstore = local\n",
		"/etc/xdg/nix/nix.conf":          "cores = 2\ntimeout = 2\nmax-jobs = 2\nmin-free = 2\nmax-free = 2\n",
		"/home/u/.config/nix/nix.conf":   "timeout = 3\nmax-jobs = 3\nmin-free = 3\n",
		"/home/u/elsewhere/nix/nix.conf": "timeout = 33\n",
		"/one":                           "timeout = 31\nmax-free = 31\n",
		"/cwd/two":                       "timeout = 32\ncores = 32\n",
		"/conf/nix.conf":                 "log-lines = 77\n",
	}
	flags := Options{Overrides: []Override{{"min-free", "5", "--min-free"}, {"min-free", "6", ""}}}
	for _, tt := range []struct {
		name string
		vars map[string]string
		opts Options
		want map[string]string // setting to "value from source"
	}{
		{"defaults below everything", map[string]string{"NIX_CONF_DIR": "/empty", "XDG_CONFIG_DIRS": "/empty", "XDG_CONFIG_HOME": "/empty"}, Options{},
			map[string]string{"log-lines": "25 from default", "cores": "0 from default"}},
		{"the usual files", map[string]string{"NIX_CONFIG": "\nmax-jobs = 4\nmin-free = 4", "NIX_REMOTE": "daemon"}, flags,
			map[string]string{
				"log-lines": "1 from /etc/nix/nix.conf:1",
				"store":     "local from /etc/nix/nix.conf:7",
				"cores":     "2 from /etc/xdg/nix/nix.conf:1",
				"max-free":  "2 from /etc/xdg/nix/nix.conf:5",
				"timeout":   "3 from /home/u/.config/nix/nix.conf:1",
				"max-jobs":  "4 from NIX_CONFIG:2",
				"min-free":  "6 from --option",
				"keep-log":  "",
			}},
		{"variables that stand for settings", map[string]string{
			"NIX_CONF_DIR": "/conf", "NIX_REMOTE": "ssh-ng://h", "NIX_IGNORE_SYMLINK_STORE": "1",
			"SSL_CERT_FILE": "/b", "NIX_SSL_CERT_FILE": "a", "NIX_REMOTE_SYSTEMS": "/x::/y",
		}, Options{},
			map[string]string{
				"log-lines":             "77 from /conf/nix.conf:1",
				"store":                 "ssh-ng://h from environment NIX_REMOTE",
				"allow-symlinked-store": "true from environment NIX_IGNORE_SYMLINK_STORE",
				"ssl-cert-file":         "/cwd/a from environment NIX_SSL_CERT_FILE",
				"builders":              "@/x\n@/y from environment NIX_REMOTE_SYSTEMS",
				"netrc-file":            "/conf/netrc from default",
			}},
		{"first of the user's files", map[string]string{"NIX_USER_CONF_FILES": "/one:two::/three"}, Options{},
			map[string]string{"timeout": "31 from /one:1", "cores": "32 from /cwd/two:2", "max-free": "31 from /one:2", "min-free": "1 from /etc/nix/nix.conf:5"}},
		{"no user's files", map[string]string{"NIX_USER_CONF_FILES": ""}, Options{},
			map[string]string{"timeout": "1 from /etc/nix/nix.conf:3"}},
		{"XDG_CONFIG_HOME", map[string]string{"XDG_CONFIG_HOME": "/home/u/elsewhere"}, Options{},
			map[string]string{"timeout": "33 from /home/u/elsewhere/nix/nix.conf:1", "cores": "2 from /etc/xdg/nix/nix.conf:1"}},
		{"NIX_CONFIG_HOME", map[string]string{"NIX_CONFIG_HOME": "/home/u/elsewhere/nix", "XDG_CONFIG_HOME": "/empty"}, Options{},
			map[string]string{"timeout": "33 from /home/u/elsewhere/nix/nix.conf:1"}},
		{"XDG_CONFIG_DIRS", map[string]string{"XDG_CONFIG_DIRS": "/home/u/elsewhere:/etc/xdg", "XDG_CONFIG_HOME": ""}, Options{},
			map[string]string{"timeout": "3 from /home/u/.config/nix/nix.conf:1", "cores": "2 from /etc/xdg/nix/nix.conf:1"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, warnings, err := Load(machine(files, tt.vars), tt.opts)
			if err != nil {
				t.Fatal(err)
			}
			got := map[string]string{}
			for name := range tt.want {
				if v, ok := s.Value(name); ok {
					got[name] = v + " from " + s.Source(name).String()
				} else {
					got[name] = ""
				}
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got)\n%s\nwarnings: %v", diff, warnings)
			}
		})
	}
}

func TestLoadGrammar(t *testing.T) {
	const nixConf = "/etc/nix/nix.conf"
	load := func(text string, more map[string]string) (*Settings, []Warning, error) {
		files := map[string]string{nixConf: text}
		for name, text := range more {
			files[name] = text
		}
		return Load(machine(files, nil), Options{})
	}

	t.Run("lines", func(t *testing.T) {
		s, warnings, err := load("# comment\n\n \t\r\ncores = 3 # why\r\n  trusted-users =  a \t b#c\nhashed-mirrors =\nbuild-users-group = last line", nil)
		if err != nil || len(warnings) > 0 {
			t.Fatal(warnings, err)
		}
		for name, want := range map[string]string{"cores": "3", "trusted-users": "a b", "hashed-mirrors": "", "build-users-group": "last line"} {
			if got, _ := s.Value(name); got != want {
				t.Errorf("%s = %q, want %q", name, got, want)
			}
		}
	})

	t.Run("include", func(t *testing.T) {
		s, warnings, err := load("cores = 1\ninclude sub/a.conf\n!include missing\n!include /not/there\nmax-jobs = 2\n", map[string]string{
			"/etc/nix/sub/a.conf": "cores = 7\nmax-jobs = 7\ninclude ./b.conf\n",
			"/etc/nix/sub/b.conf": "timeout = 9\n",
		})
		if err != nil || len(warnings) > 0 {
			t.Fatal(warnings, err)
		}
		for name, want := range map[string]string{
			"cores": "7 from /etc/nix/sub/a.conf:1", "max-jobs": "2 from /etc/nix/nix.conf:5", "timeout": "9 from /etc/nix/sub/b.conf:1",
		} {
			v, _ := s.Value(name)
			if got := v + " from " + s.Source(name).String(); got != want {
				t.Errorf("%s: %s, want %s", name, got, want)
			}
		}
	})

	t.Run("features come first", func(t *testing.T) {
		s, warnings, err := load("auto-allocate-uids = true\ninclude x\n", map[string]string{"/etc/nix/x": "extra-experimental-features = auto-allocate-uids\n"})
		if err != nil || len(warnings) > 0 || !s.AutoAllocateUIDs {
			t.Errorf("auto-allocate-uids is %v; %v, %v", s.AutoAllocateUIDs, warnings, err)
		}
	})

	deep := map[string]string{}
	for i := range 30 {
		deep[fmt.Sprintf("/etc/nix/d%d", i)] = fmt.Sprintf("include d%d\n", i+1)
	}
	for _, tt := range []struct {
		name, text string
		more       map[string]string
		want       string
	}{
		{"no equals sign", "cores", nil, `/etc/nix/nix.conf:1: syntax error in configuration line 'cores' in "/etc/nix/nix.conf"`},
		{"no space", "\ncores=3 # x", nil, `/etc/nix/nix.conf:2: syntax error in configuration line 'cores=3 ' in "/etc/nix/nix.conf"`},
		{"something else", "cores is 3", nil, `/etc/nix/nix.conf:1: syntax error in configuration line 'cores is 3' in "/etc/nix/nix.conf"`},
		{"NUL", "cores = 3\x00", nil, "/etc/nix/nix.conf:1: syntax error in configuration line 'cores = 3\x00' in \"/etc/nix/nix.conf\""},
		{"include nothing", "include", nil, `/etc/nix/nix.conf:1: syntax error in configuration line 'include' in "/etc/nix/nix.conf"`},
		{"include two", "include a b", nil, `/etc/nix/nix.conf:1: syntax error in configuration line 'include a b' in "/etc/nix/nix.conf"`},
		{"include what is missing", "include no", nil, `/etc/nix/nix.conf:1: file "/etc/nix/no" included from "/etc/nix/nix.conf" not found`},
		{"include itself", "include ../nix/nix.conf", nil, `/etc/nix/nix.conf:1: file "/etc/nix/nix.conf" includes itself`},
		{"include in a circle", "include a", map[string]string{"/etc/nix/a": "!include nix.conf"}, `/etc/nix/a:1: file "/etc/nix/nix.conf" includes itself`},
		{"include too deep", "include d0", deep, `file "/etc/nix/d15": more than 16 files include one another`},
		{"include too often", strings.Repeat("include a\n", MaxFiles), map[string]string{"/etc/nix/a": ""}, `file "/etc/nix/a": more than 256 files are included`},
		{"include too much", strings.Repeat("include a\n", 9), map[string]string{"/etc/nix/a": strings.Repeat("\n", MaxFileSize)}, `file "/etc/nix/a": more than 8388608 bytes are included`},
		{"include a large file", "!include a", map[string]string{"/etc/nix/a": strings.Repeat("\n", MaxFileSize+1)}, `/etc/nix/nix.conf:1: read "/etc/nix/a": larger than the limit of 1048576 bytes`},
		{"large file", strings.Repeat("\n", MaxFileSize+1), nil, `read "/etc/nix/nix.conf": larger than the limit of 1048576 bytes`},
		{"long line", "cores = 1\n#" + strings.Repeat("x", MaxLineLength), nil, `/etc/nix/nix.conf:2: line is longer than 65536 bytes`},
		{"bad value", "\n\ncores = x", nil, `/etc/nix/nix.conf:3: setting 'cores' has invalid value 'x'`},
		{"bad value of what is not supported", "http3 = x", nil, `/etc/nix/nix.conf:1: Boolean setting 'http3' has invalid value 'x'`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s, _, err := load(tt.text, tt.more)
			if err == nil || err.Error() != "load settings: "+tt.want || s != nil {
				t.Errorf("got %v, %v\nwant load settings: %s", s, err, tt.want)
			}
		})
	}
}

func TestNixConfigIncludesOnlyAbsoluteNames(t *testing.T) {
	env := machine(map[string]string{"/x": "cores = 5\n"}, map[string]string{"NIX_CONFIG": "include /x"})
	s, _, err := Load(env, Options{})
	if err != nil || s.Cores != 5 {
		t.Errorf("include by an absolute name: %v", err)
	}
	env.Lookup = variables(map[string]string{"NIX_CONFIG": "include x"})
	if _, _, err := Load(env, Options{}); err == nil || !strings.Contains(err.Error(), `NIX_CONFIG:1: cannot include "x": not an absolute path`) {
		t.Errorf("include by a relative name: %v", err)
	}
	env.Lookup = variables(map[string]string{"NIX_CONFIG": strings.Repeat("\n", MaxFileSize+1)})
	if _, _, err := Load(env, Options{}); err == nil || !strings.Contains(err.Error(), "larger than the limit") {
		t.Errorf("NIX_CONFIG without end: %v", err)
	}
}

func TestLoadWarns(t *testing.T) {
	env := machine(map[string]string{
		"/etc/nix/nix.conf": "zzz = 1\nfoo = 1\neval-cache = maybe\nuse-registries = true\nexternal-builders = [{}]\nfoo = 2\n",
	}, nil)
	_, warnings, err := Load(env, Options{Overrides: []Override{{Name: "aaa", Value: "1"}, {Name: "extra-cores", Value: "1", Flag: "--extra-cores"}}})
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, w := range warnings {
		got = append(got, w.String())
	}
	want := []string{
		"/etc/nix/nix.conf:3: Boolean setting 'eval-cache' has invalid value 'maybe'",
		"/etc/nix/nix.conf:4: Ignoring setting 'use-registries' because experimental feature 'flakes' is not enabled",
		"/etc/nix/nix.conf:5: setting 'external-builders' is not supported by kiln and has no effect",
		"--option: unknown setting 'aaa'",
		"--extra-cores: unknown setting 'extra-cores'",
		"/etc/nix/nix.conf:2: unknown setting 'foo'",
		"/etc/nix/nix.conf:1: unknown setting 'zzz'",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

// lockedFS is a file system of which this user may not read one file.
type lockedFS struct {
	fs.FS
	name string
}

func (l lockedFS) Open(name string) (fs.File, error) {
	if name == l.name {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrPermission}
	}
	return l.FS.Open(name)
}

func TestFilesThatCannotBeRead(t *testing.T) {
	files := map[string]string{"/etc/nix/nix.conf": "!include secret\ncores = 3\n", "/etc/nix/secret": "cores = 4\n"}
	for _, tt := range []struct {
		name, nixConf, locked string
		cores                 int
		warnings              []string
	}{
		{"tokens for root only", "cores = 3\n!include secret\n", "etc/nix/secret", 3, nil},
		{"a file that should be there", "cores = 3\ninclude secret\n", "etc/nix/secret", 3,
			[]string{`/etc/nix/nix.conf:2: cannot read "/etc/nix/secret", leaving it out: permission denied`}},
		{"the configuration itself", "cores = 3\n", "etc/nix/nix.conf", 0,
			[]string{`/etc/nix/nix.conf: cannot read "/etc/nix/nix.conf", leaving it out: permission denied`}},
	} {
		files["/etc/nix/nix.conf"] = tt.nixConf
		env := machine(files, nil)
		env.Files = lockedFS{env.Files, tt.locked}
		s, warnings, err := Load(env, Options{})
		if err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		var got []string
		for _, w := range warnings {
			got = append(got, w.String())
		}
		if s.Cores != tt.cores || !slices.Equal(got, tt.warnings) {
			t.Errorf("%s: cores %d, warnings %q; want %d, %q", tt.name, s.Cores, got, tt.cores, tt.warnings)
		}
	}
}

func TestLoadRefusesRelativeDirectories(t *testing.T) {
	_, _, err := Load(machine(nil, map[string]string{"NIX_STATE_DIR": "var"}), Options{})
	if err == nil || err.Error() != `load settings: read NIX_STATE_DIR: not an absolute path: "var"` {
		t.Errorf("got %v", err)
	}
}

func TestLoadOnThisMachine(t *testing.T) {
	env := Host()
	if env.OS == "" || env.CPUs < 1 || !path.IsAbs(env.Dir) {
		t.Errorf("Host() = %+v", env)
	}
	dir := t.TempDir()
	env.Lookup = variables(map[string]string{"NIX_CONF_DIR": dir, "NIX_USER_CONF_FILES": "", "NIX_CONFIG": "max-jobs = auto\n!include " + dir + "/x/y"})
	s, warnings, err := Load(env, Options{})
	if err != nil || len(warnings) > 0 {
		t.Fatal(warnings, err)
	}
	if s.MaxJobs != env.CPUs || s.System == "" || s.Sandbox == SandboxOn != (env.OS == "linux") {
		t.Errorf("max-jobs %d, system %q, sandbox %q on %+v", s.MaxJobs, s.System, s.Sandbox, env)
	}
}

// FuzzLoad holds that no text makes Load misbehave, and that what it accepts is
// stable: every value printed can be given again and stays what it is.
func FuzzLoad(f *testing.F) {
	for _, text := range []string{
		"", "cores = 3", "a=b", "include x\n!include y", "extra-sandbox-paths = /a=/b? /c # d",
		"experimental-features = ca-derivations flakes x\nauto-allocate-uids = true", "max-jobs = auto\r\nmin-free = 1T",
		"include /etc/nix/nix.conf", "access-tokens = a=b=c d", "store = ssh://h?compress=1", "external-builders = [1,{\"a\":\"b\"}]",
		"impure-env = =", "sandbox-paths = /?", "\x00 = \x00", "timeout = 99999999999999999999",
	} {
		f.Add(text, text)
	}
	f.Fuzz(func(t *testing.T, text, included string) {
		env := machine(map[string]string{"/etc/nix/nix.conf": text, "/etc/nix/x": included}, nil)
		s, _, err := Load(env, Options{})
		if err != nil {
			return
		}
		again := s.Clone()
		for e := range s.All() {
			if e.Source.Kind == FromDefault {
				continue
			}
			if _, err := again.Set(e.Name, e.Value, e.Source); err != nil {
				t.Fatalf("%s = %q was accepted, but not again: %v", e.Name, e.Value, err)
			}
			if v, _ := again.Value(e.Name); v != e.Value {
				t.Fatalf("%s = %q becomes %q when given again", e.Name, e.Value, v)
			}
		}
		if _, err := again.Set("no-such-setting", "", Source{}); !errors.Is(err, ErrUnknown) {
			t.Fatal(err)
		}
	})
}
