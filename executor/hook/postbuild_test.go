package hook

import (
	"bytes"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// A shelf keeps what it is given, call by call.
type shelf struct {
	calls []string
	err   error
}

func (s *shelf) Write(p []byte) (int, error) {
	s.calls = append(s.calls, string(p))
	return len(p), s.err
}

func (b *bench) postBuild(script string, out io.Writer) PostBuild {
	return PostBuild{
		Program: b.script(script), Drv: "/s/a.drv", Outputs: []string{"/s/b", "/s/a", "/s/b"},
		Config: "cores = 1\nsandbox = true\n", Env: append(b.Env(), "NIX_CONFIG=other", "OUT_PATHS=other", "REST=yes"), Output: out,
	}
}

func TestPostBuild(t *testing.T) {
	everyone(t, func(t *testing.T) {
		for _, tt := range []struct {
			name, script string
			want         []string
			err          string
		}{
			{"environment", `echo "$#" "$DRV_PATH" "$OUT_PATHS" "$REST"; echo "$NIX_CONFIG"; pwd; cat`, []string{"0 /s/a.drv /s/a /s/b yes\n", "cores = 1\n", "sandbox = true\n", "\n", "$PWD\n"}, ""},
			{"both outputs", `echo a; echo b >&2; printf c`, []string{"a\n", "b\n", "c\n"}, ""},
			{"failure", `echo no >&2; exit 7`, []string{"no\n"}, `program "%s" failed with exit code 7`},
			{"signal", `kill -15 $$`, nil, `program "%s" failed due to signal 15 (Terminated)`},
			{"hangs", `%sleep`, nil, `program "%s" timed out after 300ms`},
			{"too long to be one line", `head -c 100000 /dev/zero | tr '\0' x; echo; echo y`, []string{strings.Repeat("x", 65536) + "\n", strings.Repeat("x", 34464) + "\n", "y\n"}, ""},
		} {
			t.Run(tt.name, func(t *testing.T) {
				b := newBench(t)
				var out shelf
				h := b.postBuild(strings.ReplaceAll(tt.script, "%sleep", b.sleep()), &out)
				if tt.name == "hangs" {
					h.Timeout = 300 * time.Millisecond
				}
				err := h.Run(t.Context())
				here, _ := os.Getwd()
				for i := range tt.want {
					tt.want[i] = strings.ReplaceAll(tt.want[i], "$PWD", here)
				}
				if diff := cmp.Diff(tt.want, out.calls); diff != "" {
					t.Errorf("output (-want +got):\n%s", diff)
				}
				if want := strings.ReplaceAll(tt.err, "%s", h.Program); want == "" && err != nil || want != "" && (err == nil || err.Error() != want) {
					t.Errorf("%v, want %s", err, want)
				}
				b.gone()
			})
		}
	})
}

// TestPostBuildBackground lets go of the output, and goes on.
func TestPostBuildBackground(t *testing.T) {
	b := newBench(t)
	stop, done := b.fifo("stop"), b.fifo("done")
	h := b.postBuild(`(read x < `+stop+`; echo uploaded > `+done+`) > /dev/null 2>&1 &`, nil)
	must(t, h.Run(t.Context()))
	must(t, os.WriteFile(stop, []byte("\n"), 0))
	if text, err := os.ReadFile(done); string(text) != "uploaded\n" || err != nil {
		t.Errorf("it said %q, %v", text, err)
	}
}

// TestPostBuildWaitsForOutput has something else print after the program's end.
func TestPostBuildWaitsForOutput(t *testing.T) {
	b := newBench(t)
	stop := b.fifo("stop")
	out := &shelf{}
	h := b.postBuild(`(read x < `+stop+`; echo late) &`, out)
	written := make(chan error)
	go func() { written <- os.WriteFile(stop, []byte("\n"), 0) }()
	must(t, h.Run(t.Context()))
	must(t, <-written)
	if diff := cmp.Diff([]string{"late\n"}, out.calls); diff != "" {
		t.Errorf("output (-want +got):\n%s", diff)
	}
}

func TestPostBuildOutputFails(t *testing.T) {
	b := newBench(t)
	out := &shelf{err: io.ErrClosedPipe}
	h := b.postBuild(`echo one; `+b.sleep(), out)
	if err := h.Run(t.Context()); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("it ended with %v", err)
	}
	b.gone()
}

func TestPostBuildCancelled(t *testing.T) {
	b := newBench(t)
	here := b.fifo("here")
	enough := errors.New("enough")
	var out bytes.Buffer
	h := b.postBuild(`trap '' TERM; (trap '' HUP; `+b.sleep()+` >/dev/null 2>&1) & echo > `+here+`; wait`, &out)
	if err := h.Run(b.cancelledBy(here, enough)); !errors.Is(err, enough) {
		t.Errorf("it ended with %v", err)
	}
	b.gone()
}

// TestPostBuildLastOutputFails has nobody to kill any more.
func TestPostBuildLastOutputFails(t *testing.T) {
	b := newBench(t)
	h := b.postBuild(`echo one`, &shelf{err: io.ErrClosedPipe})
	for range 20 {
		if err := h.Run(t.Context()); !errors.Is(err, io.ErrClosedPipe) {
			t.Fatalf("it ended with %v", err)
		}
	}
}
