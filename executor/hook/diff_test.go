package hook

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/kilnbuild/kiln/internal/testenv"
)

func (b *bench) diff(script string) Diff {
	return Diff{
		Program: b.script(script), Env: b.Env(),
		Old: "/s/a", New: "/s/a.check", Drv: "/s/a.drv", TmpDir: b.Tmp(), UID: os.Getuid(), GID: os.Getgid(),
	}
}

func TestDiff(t *testing.T) {
	everyone(t, func(t *testing.T) {
		for _, tt := range []struct{ name, script, output, failure string }{
			{"arguments", `echo "$#" "$1" "$2" "$3"; test -d "$4" && pwd; cat`, "4 /s/a /s/a.check /s/a.drv\n/", ""},
			{"both outputs", `echo one; echo two >&2; echo three`, "one\ntwo\nthree", ""},
			{"silence", `:`, "", ""},
			{"failure", `echo differs; exit 3`, "differs", `diff hook execution failed: program "%s" failed with exit code 3`},
			{"signal", `kill -9 $$`, "", `diff hook execution failed: program "%s" failed due to signal 9 (Killed)`},
			{"background", `%s & exit 0`, "", `diff hook execution failed: program "%s" timed out after 200ms`},
		} {
			t.Run(tt.name, func(t *testing.T) {
				b := newBench(t)
				d := b.diff(strings.ReplaceAll(tt.script, "%s", b.sleep()))
				if strings.Contains(tt.failure, "timed out") {
					d.Timeout = 200 * time.Millisecond
				}
				r := d.Run(t.Context())
				if string(r.Output) != tt.output || r.Truncated {
					t.Errorf("it printed %q (truncated %v), want %q", r.Output, r.Truncated, tt.output)
				}
				want := strings.ReplaceAll(tt.failure, "%s", d.Program)
				if got := ""; r.Failure != nil {
					got = r.Failure.Error()
					if got != want {
						t.Errorf("failure %q, want %q", got, want)
					}
				} else if want != "" {
					t.Errorf("no failure, want %q", want)
				}
				b.gone()
			})
		}
	})
}

func TestDiffAsBuildUser(t *testing.T) {
	testenv.NeedRoot(t)
	b := newBench(t)
	d := b.diff(`id -u; id -g; id -G`)
	d.UID, d.GID = 910_000_001, 910_000_002
	r := d.Run(t.Context())
	if got, want := string(r.Output), "910000001\n910000002\n910000002"; got != want || r.Failure != nil {
		t.Errorf("it ran as %q, %v; want %q", got, r.Failure, want)
	}
}

// TestDiffIsNobodyElse has an ordinary user ask for a build user.
func TestDiffIsNobodyElse(t *testing.T) {
	if !testenv.AsOrdinaryUser(t) {
		return
	}
	b := newBench(t)
	d := b.diff(`id -u`)
	d.UID, d.GID = 1, 1
	r := d.Run(t.Context())
	if got, want := string(r.Output), fmt.Sprint(os.Getuid()); got != want || r.Failure != nil {
		t.Errorf("it ran as %q, %v; want %q", got, r.Failure, want)
	}
}

func TestDiffOutputHasALimit(t *testing.T) {
	b := newBench(t)
	r := b.diff(`head -c 11000000 /dev/zero`).Run(t.Context())
	if len(r.Output) != MaxDiffOutput || !r.Truncated || r.Failure != nil {
		t.Errorf("%d bytes were kept, truncated %v, %v", len(r.Output), r.Truncated, r.Failure)
	}
}

func TestDiffCancelled(t *testing.T) {
	everyone(t, func(t *testing.T) {
		b := newBench(t)
		here := b.fifo("here")
		enough := errors.New("enough")
		d := b.diff(`trap '' TERM HUP INT; echo so far; ` + b.sleep() + ` & echo > ` + here + `; wait`)
		within(t, drainTime, func() {
			r := d.Run(b.cancelledBy(here, enough))
			if !errors.Is(r.Failure, enough) || string(r.Output) != "so far" {
				t.Errorf("it ended with %v, and printed %q", r.Failure, r.Output)
			}
		})
		b.gone()
	})
}

// TestDiffEscape has something leave the session of a hook and keep its output.
func TestDiffEscape(t *testing.T) {
	b := newBench(t)
	here := b.fifo("here")
	enough := errors.New("enough")
	stop := b.fifo("stop")
	d := b.diff(`setsid sh -c 'echo > ` + here + `; read x < ` + stop + `' & exit 0`)
	r := d.Run(b.cancelledBy(here, enough))
	if !errors.Is(r.Failure, enough) {
		t.Errorf("it ended with %v", r.Failure)
	}
	must(t, os.WriteFile(stop, []byte("\n"), 0))
	b.gone()
}

func TestDiffCannotStart(t *testing.T) {
	for program, want := range map[string]string{
		"/none/such":   "diff hook execution failed: run the diff-hook '/none/such': no such file or directory",
		"no-such-name": "diff hook execution failed: run the diff-hook 'no-such-name': executable file not found in $PATH",
		"/etc/passwd":  "diff hook execution failed: run the diff-hook '/etc/passwd': permission denied",
	} {
		r := Diff{Program: program, UID: os.Getuid(), GID: os.Getgid()}.Run(t.Context())
		if r.Failure == nil || r.Failure.Error() != want {
			t.Errorf("%v, want %s", r.Failure, want)
		}
	}
}
