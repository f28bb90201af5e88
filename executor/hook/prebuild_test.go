package hook

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/kilnbuild/kiln/nix/conf"
)

func (b *bench) preBuild(script string) PreBuild {
	return PreBuild{Program: b.script(script), Drv: "/s/a.drv", Root: "/s/a.drv.chroot/root", Env: b.Env()}
}

func bind(target, source string) conf.SandboxPath {
	return conf.SandboxPath{Target: target, Source: source}
}

var preBuildTexts = []struct {
	text string
	want []conf.SandboxPath
	err  string
}{
	{"", nil, ""},
	{"extra-sandbox-paths\n", nil, ""},
	{"extra-sandbox-paths\n\n", nil, ""},
	{"extra-sandbox-paths\n/a\n/b=/c\n\n", []conf.SandboxPath{bind("/a", "/a"), bind("/b", "/c")}, ""},
	{"extra-sandbox-paths\n/b\n\nextra-chroot-dirs\n/a\n", []conf.SandboxPath{bind("/a", "/a"), bind("/b", "/b")}, ""},
	{"extra-sandbox-paths\n/a=/x\n/a=/y", []conf.SandboxPath{bind("/a", "/y")}, ""},
	{"extra-sandbox-paths\n/a//b/=/c/../d\n", []conf.SandboxPath{bind("/a/b", "/d")}, ""},
	{"extra-sandbox-paths\n/a?\n/b=/c=d\n", []conf.SandboxPath{bind("/a?", "/a?"), bind("/b", "/c=d")}, ""},
	{"\n", nil, `line 1: unknown pre-build hook command ""; the one there is is extra-sandbox-paths`},
	{"extra-sandbox-paths\n/a\n\n/b\n", nil, `line 4: unknown pre-build hook command "/b"; the one there is is extra-sandbox-paths`},
	{"extra-sandbox-paths\r\n", nil, `line 1: unknown pre-build hook command "extra-sandbox-paths\r"; the one there is is extra-sandbox-paths`},
	{"hello \x1b[2J", nil, `line 1: unknown pre-build hook command "hello \x1b[2J"; the one there is is extra-sandbox-paths`},
	{strings.Repeat("x", 300), nil, `line 1: unknown pre-build hook command "` + strings.Repeat("x", 200) + `"…; the one there is is extra-sandbox-paths`},
	{"extra-sandbox-paths\na\n", nil, `line 2: "a" is no sandbox path: write TARGET=SOURCE, both absolute`},
	{"extra-sandbox-paths\n/a=\n", nil, `line 2: "/a=" is no sandbox path: write TARGET=SOURCE, both absolute`},
	{"extra-sandbox-paths\n=/a\n", nil, `line 2: "=/a" is no sandbox path: write TARGET=SOURCE, both absolute`},
	{"extra-sandbox-paths\n/a\x00b\n", nil, `line 2: "/a\x00b" is no sandbox path: write TARGET=SOURCE, both absolute`},
}

func TestParsePreBuild(t *testing.T) {
	for _, tt := range preBuildTexts {
		got, err := parsePreBuild([]byte(tt.text))
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%q (-want +got):\n%s", tt.text, diff)
		}
		if fmt.Sprint(err) != tt.err && (err != nil || tt.err != "") {
			t.Errorf("%q: %v, want %s", tt.text, err, tt.err)
		}
	}

	var many strings.Builder
	many.WriteString("extra-sandbox-paths\n")
	for i := range MaxPreBuildPaths {
		fmt.Fprintf(&many, "/%d\n", i)
	}
	if got, err := parsePreBuild([]byte(many.String())); err != nil || len(got) != MaxPreBuildPaths {
		t.Errorf("%d paths, %v", len(got), err)
	}
	many.WriteString("/one/more\n")
	if _, err := parsePreBuild([]byte(many.String())); err == nil || err.Error() != "line 4098: there are more than 4096 sandbox paths" {
		t.Errorf("too many paths: %v", err)
	}
}

// FuzzParsePreBuild wants that what was read can be printed and read again.
func FuzzParsePreBuild(f *testing.F) {
	for _, tt := range preBuildTexts {
		f.Add([]byte(tt.text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		paths, err := parsePreBuild(text)
		if err != nil {
			return
		}
		if !slices.IsSortedFunc(paths, func(a, b conf.SandboxPath) int { return strings.Compare(a.Target, b.Target) }) {
			t.Fatalf("not sorted: %q", paths)
		}
		again := []byte("extra-sandbox-paths\n")
		for _, p := range paths {
			again = fmt.Appendf(again, "%s=%s\n", p.Target, p.Source)
		}
		got, err := parsePreBuild(again)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(paths, got); diff != "" {
			t.Fatalf("read again (-first +second):\n%s", diff)
		}
	})
}

func TestPreBuild(t *testing.T) {
	everyone(t, func(t *testing.T) {
		for _, tt := range []struct {
			name, script string
			paths        []conf.SandboxPath
			log, err     string
		}{
			{"nothing to say", `test $# = 2`, nil, "", ""},
			{"arguments", `echo extra-sandbox-paths; echo "$1=$2"; echo hello >&2`, []conf.SandboxPath{bind("/s/a.drv", "/s/a.drv.chroot/root")}, "hello", ""},
			{"failure", `echo extra-sandbox-paths; echo /a; echo one >&2; echo two >&2; exit 2`, nil, "", "program \"%s\" failed with exit code 2; it printed:\none\ntwo"},
			{"garbage", `echo what >&2; echo extra-sandbox-paths; echo /a; echo; echo add /b`, nil, "", "the pre-build-hook '%s' printed in line 4: unknown pre-build hook command \"add /b\"; the one there is is extra-sandbox-paths; it printed:\nwhat"},
			{"endless", `yes`, nil, "", "the pre-build-hook '%s' printed more than 1048576 bytes"},
			{"endless talk", `yes | head -c 200000 >&2`, nil, "yes", ""},
			{"hangs", `%sleep`, nil, "", "program \"%s\" timed out after 300ms"},
		} {
			t.Run(tt.name, func(t *testing.T) {
				b := newBench(t)
				h := b.preBuild(strings.ReplaceAll(tt.script, "%sleep", b.sleep()))
				if tt.name == "hangs" {
					h.Timeout = 300 * time.Millisecond
				}
				r, err := h.Run(t.Context())
				if diff := cmp.Diff(tt.paths, r.Paths); diff != "" {
					t.Errorf("paths (-want +got):\n%s", diff)
				}
				if tt.log == "yes" {
					if len(r.Log) < maxHookLog/2 || len(r.Log) > maxHookLog || !strings.HasPrefix(r.Log, "y\ny\n") {
						t.Errorf("the log has %d bytes", len(r.Log))
					}
				} else if r.Log != tt.log {
					t.Errorf("log %q, want %q", r.Log, tt.log)
				}
				if want := strings.ReplaceAll(tt.err, "%s", h.Program); want == "" && err != nil || want != "" && (err == nil || err.Error() != want) {
					t.Errorf("%v, want %s", err, want)
				}
				if tt.name == "hangs" && !errors.Is(err, ErrTimedOut) {
					t.Error("nobody can tell that it timed out")
				}
				b.gone()
			})
		}
	})
}

func TestPreBuildWithoutSandbox(t *testing.T) {
	b := newBench(t)
	h := b.preBuild(`test $# = 1 && test -z "$2"`)
	h.Root = ""
	if _, err := h.Run(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestPreBuildCancelled wants that what a hook printed for people survives it.
func TestPreBuildCancelled(t *testing.T) {
	b := newBench(t)
	here := b.fifo("here")
	enough := errors.New("enough")
	h := b.preBuild(`echo why >&2; echo > ` + here + `; ` + b.sleep())
	_, err := h.Run(b.cancelledBy(here, enough))
	if !errors.Is(err, enough) || err.Error() != "run the pre-build-hook '"+h.Program+"': enough; it printed:\nwhy" {
		t.Errorf("it ended with %v", err)
	}
	b.gone()
}
