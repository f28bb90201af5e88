package hook

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// TestBadBuildHooks has hooks that are asked once.
func TestBadBuildHooks(t *testing.T) {
	everyone(t, func(t *testing.T) {
		for _, tt := range []struct{ name, script, want string }{
			{"crashes", `echo no config >&2; exit 3`, "it failed with exit code 3, without a reply; it printed:\nno config"},
			{"is killed", `kill -9 $$`, "it failed due to signal 9 (Killed), without a reply"},
			{"goes away", `exit 0`, "it ended without a reply"},
			{"says garbage", "echo one; printf '# yes\\033\\n' >&2; %sleep", "bad hook reply \"yes\\x1b\"; it printed:\none"},
			{"says garbage and goes", `echo '# accepted' >&2`, `bad hook reply "accepted"`},
			{"does not know the form", `echo accept >&2`, "it ended without a reply; it printed:\naccept"},
			{"hangs", `echo waiting; %sleep`, "timed out after 300ms"},
			{"hangs for good", `trap '' TERM; echo waiting; %sleep & wait; wait; %sleep`, "timed out after 300ms"},
			{"names no machine", `echo '# accept' >&2; exit 1`, "it failed with exit code 1, before it had named the machine that builds"},
			{"hangs before the machine", `echo '# accept' >&2; %sleep`, "timed out after 300ms"},
			{"has a long name", `echo '# accept' >&2; head -c 5000 /dev/zero | tr '\0' m; echo; %sleep`, "the name of the machine has 5000 bytes; 4096 are the most"},
			{"closes its output", `echo bye; exec >&- 2>&- 4>&-; %sleep`, "it closed its error output without a reply; it printed:\nbye"},
			{"prints to the log", `echo why >&4; exit 1`, "it failed with exit code 1, without a reply; it printed:\nwhy"},
			{"never ends a line", `head -c 3000000 /dev/zero | tr '\0' x; exit 1`, "it failed with exit code 1, without a reply; it printed:\n" + strings.Repeat("x", maxTail-1)},
			{"never stops", `yes`, "timed out after 300ms"},
			{"fills the log", `yes >&4`, "timed out after 300ms"},
		} {
			t.Run(tt.name, func(t *testing.T) {
				b := newBench(t)
				h := BuildHook{Words: []string{b.script(strings.ReplaceAll(tt.script, "%sleep", b.sleep())), "word"}, Env: b.Env(), KillTimeout: 200 * time.Millisecond}
				if strings.Contains(tt.want, "timed out") {
					h.ReplyTimeout = 300 * time.Millisecond
				}
				v, running, err := pool(t, h).Try(t.Context(), Request{})
				want := fmt.Sprintf("ask the build hook '%s word': %s", h.Words[0], tt.want)
				got := fmt.Sprint(err)
				if h.ReplyTimeout > 0 {
					// On a busy machine it has not printed all that, or nothing.
					want, _, _ = strings.Cut(want, ";")
					got, _, _ = strings.Cut(got, ";")
				}
				if v != 0 || running != nil || got != want {
					t.Errorf("%v, %.300v\nwant %.300s", v, err, want)
				}
				if errors.Is(err, ErrTimedOut) != (h.ReplyTimeout > 0) {
					t.Error("nobody can tell whether it timed out")
				}
				b.gone()
			})
		}
	})
}

func TestBuildHookCannotStart(t *testing.T) {
	for _, tt := range []struct {
		words []string
		want  string
	}{
		{nil, "the setting 'build-hook' is empty: there is nobody to ask"},
		{[]string{"/none/such", "x"}, "run the build-hook '/none/such': no such file or directory"},
		{[]string{"no-such-name"}, "run the build-hook 'no-such-name': executable file not found in $PATH"},
	} {
		if _, _, err := pool(t, BuildHook{Words: tt.words}).Try(t.Context(), Request{}); err == nil || err.Error() != tt.want {
			t.Errorf("%v, want %s", err, tt.want)
		}
	}
}

// TestBuildHookThatDoesNotRead replies without looking at what it is told, which
// is more than fits into a pipe.
func TestBuildHookThatDoesNotRead(t *testing.T) {
	b := newBench(t)
	h := BuildHook{
		Words: []string{b.script(`echo '# decline' >&2`)}, Env: b.Env(),
		Settings: map[string]string{"builders": strings.Repeat("x", 1<<20)},
	}
	p := pool(t, h)
	for range 3 {
		try(t, p, Request{}, Declined)
	}
}

// TestIdleBuildHook has a hook do what it should not while nothing is asked: it
// is replaced.
func TestIdleBuildHook(t *testing.T) {
	for name, then := range map[string]string{
		"ends":   `exit 4`,
		"speaks": `echo '# accept' >&2; exec >&- 2>&- 4>&-; cat`,
	} {
		t.Run(name, func(t *testing.T) {
			b := newBench(t)
			count := b.Path("count")
			p := pool(t, BuildHook{Words: []string{b.script(`echo x >> ` + count + `; echo '# postpone' >&2; ` + then)}, Env: b.Env()})
			for range 3 {
				try(t, p, Request{}, Postponed)
				<-p.idle.deaf
			}
			text, err := os.ReadFile(count)
			must(t, err)
			if string(text) != "x\nx\nx\n" {
				t.Errorf("hooks were started: %q", text)
			}
		})
	}
}

// accepting is a hook that accepts and runs a script then.
func (b *bench) accepting(script string) *Pool {
	return pool(b.t, BuildHook{
		Words: []string{b.script(`echo '# accept' >&2; echo there >&2; ` + script)}, Env: b.Env(), KillTimeout: 200 * time.Millisecond,
	})
}

func TestRunningEnds(t *testing.T) {
	for _, tt := range []struct{ name, script, log, want string }{
		{"well", `echo built >&4`, "built\n", ""},
		{"with something in the background", `%sleep & echo built >&4`, "built\n", ""},
		{"without a word", `exec 2>&- 4>&-; :`, "", ""},
		{"by a signal", `echo lost >&2; kill -15 $$`, "", "program \"%s\" failed due to signal 15 (Terminated); it printed:\nlost"},
		{"with much to read", `head -c 1000000 /dev/zero | tr '\0' x >&4`, strings.Repeat("x", 1000000), ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			b := newBench(t)
			var l listener
			p := b.accepting(strings.ReplaceAll(tt.script, "%sleep", b.sleep()))
			running := try(t, p, l.request(), Accepted)
			err := running.Wait(t.Context())
			if want := strings.ReplaceAll(tt.want, "%s", b.Path("hook")); want == "" && err != nil || want != "" && (err == nil || err.Error() != want) {
				t.Errorf("%v, want %s", err, want)
			}
			if diff := cmp.Diff(tt.log, l.log.String()); diff != "" {
				t.Errorf("log (-want +got):\n%s", diff)
			}
			b.gone()
		})
	}
}

func TestRunningCancelled(t *testing.T) {
	everyone(t, func(t *testing.T) {
		b := newBench(t)
		here := b.fifo("here")
		enough := errors.New("enough")
		p := b.accepting(`trap '' TERM; ` + b.sleep() + ` & echo > ` + here + `; wait`)
		running := try(t, p, Request{}, Accepted)
		if err := running.Wait(b.cancelledBy(here, enough)); !errors.Is(err, enough) {
			t.Errorf("it ended with %v", err)
		}
		b.gone()
	})
}

// TestRunningCleansUp has a hook that is told to end, and does.
func TestRunningCleansUp(t *testing.T) {
	b := newBench(t)
	here, tidy := b.fifo("here"), b.Path("tidy")
	enough := errors.New("enough")
	p := pool(t, BuildHook{
		Words: []string{b.script(`echo '# accept' >&2; echo there >&2; trap 'touch ` + tidy + `; exit' TERM; echo > ` + here + `; while :; do ` + b.sleep() + ` & wait; done`)},
		Env:   b.Env(), KillTimeout: time.Minute,
	})
	running := try(t, p, Request{}, Accepted)
	if err := running.Wait(b.cancelledBy(here, enough)); !errors.Is(err, enough) {
		t.Errorf("it ended with %v", err)
	}
	if _, err := os.Stat(tidy); err != nil {
		t.Error("it was not let to clean up")
	}
	b.gone()
}

func TestRunningLogFails(t *testing.T) {
	b := newBench(t)
	p := b.accepting(`echo built >&4; ` + b.sleep())
	running := try(t, p, Request{Log: &shelf{err: io.ErrClosedPipe}}, Accepted)
	if err := running.Wait(t.Context()); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("it ended with %v", err)
	}
	b.gone()
}

// TestNothingIsOpen counts descriptors before and after.
func TestNothingIsOpen(t *testing.T) {
	b := newBench(t)
	count := func() int {
		open, err := filepath.Glob("/proc/self/fd/*")
		must(t, err)
		return len(open)
	}
	use := func() {
		p := NewPool(BuildHook{Words: []string{b.script(`echo '# accept' >&2; echo there >&2`)}, Env: b.Env()})
		running := try(t, p, Request{}, Accepted)
		must(t, running.Wait(t.Context()))
		p.Close()
		p = NewPool(BuildHook{Words: []string{b.script(`echo '# decline' >&2`)}, Env: b.Env()})
		try(t, p, Request{}, Declined)
		p.Close()
		p = NewPool(BuildHook{Words: []string{"/none"}, Env: b.Env()})
		p.Try(t.Context(), Request{})
		must(t, b.postBuild(`:`, nil).Run(t.Context()))
	}
	use()
	before := count()
	for range 5 {
		use()
	}
	if after := count(); after > before {
		t.Errorf("%d descriptors were open, and %d are", before, after)
	}
}
