package hook

import (
	"errors"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/kilnbuild/kiln/nix/logline"
)

// A listener keeps what a request's functions were given.
type listener struct {
	mu       sync.Mutex
	log      strings.Builder
	messages []string
	texts    []string
}

func (l *listener) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.log.Write(p)
}

// request is one whose hook is listened to.
func (l *listener) request() Request {
	return Request{
		Drv: "/s/a.drv", System: "sparc-linux", Features: []string{"kvm", "big", "kvm"},
		Inputs: []string{"/s/c", "/s/b"}, Outputs: []string{"out", "dev"},
		Log: l,
		Message: func(m logline.Message) {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.messages = append(l.messages, m.Action.String()+" "+m.Text)
		},
		Text: func(line string) {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.texts = append(l.texts, line)
		},
	}
}

func pool(t testing.TB, h BuildHook) *Pool {
	t.Helper()
	p := NewPool(h)
	t.Cleanup(p.Close)
	return p
}

// played is a hook that plays a role, and the file in which it writes down what it
// is told.
func (b *bench) played(role string) (BuildHook, string) {
	record := b.Path("record")
	return BuildHook{
		Words: []string{"/proc/self/exe", "--remote"}, Verbosity: logline.Talkative,
		Settings: map[string]string{"builders": "ssh://far.away", "store": "/x", "": "empty"},
		Env:      append(b.Env(), roleVar+"="+role, "RECORD="+record),
	}, record
}

func recorded(t testing.TB, record string) string {
	t.Helper()
	text, err := os.ReadFile(record)
	must(t, err)
	return string(text)
}

func try(t testing.TB, p *Pool, r Request, want Verdict) *Running {
	t.Helper()
	got, running, err := p.Try(t.Context(), r)
	if got != want || err != nil || (running != nil) != (want == Accepted) {
		t.Fatalf("the verdict is %v, %v; want %v", got, err, want)
	}
	return running
}

const toldFirst = `args ["--remote" "4"]
setting ["" "empty"]
setting ["builders" "ssh://far.away"]
setting ["store" "/x"]
`

func TestPool(t *testing.T) {
	everyone(t, func(t *testing.T) {
		b := newBench(t)
		h, record := b.played("decline postpone accept 0")
		p := pool(t, h)
		var l listener
		try(t, p, l.request(), Declined)
		r := l.request()
		r.Willing, r.Features = true, nil
		try(t, p, r, Postponed)
		running := try(t, p, l.request(), Accepted)
		if running.Machine() != "ssh://far.away" {
			t.Errorf("the machine is %q", running.Machine())
		}
		must(t, running.Wait(t.Context()))
		must(t, running.Wait(t.Context()))
		want := toldFirst + `try 0 "sparc-linux" "/s/a.drv" ["big" "kvm"]
try 1 "sparc-linux" "/s/a.drv" []
try 0 "sparc-linux" "/s/a.drv" ["big" "kvm"]
inputs ["/s/b" "/s/c"]
outputs ["dev" "out"]
`
		if diff := cmp.Diff(want, recorded(t, record)); diff != "" {
			t.Errorf("what the hook was told (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff([]string{"thinking", "thinking", "thinking", "to standard output"}, l.texts); diff != "" {
			t.Errorf("texts (-want +got):\n%s", diff)
		}
		if diff := cmp.Diff([]string{"msg thought", "msg thought", "msg thought", "stop ", "start there", "stop ", "msg error: at the end"}, l.messages); diff != "" {
			t.Errorf("messages (-want +got):\n%s", diff)
		}
		// They come through two pipes.
		log := l.log.String()
		const byMessage = "@nix {\"action\":\"setPhase\",\"phase\":\"unpack\"}\nby message\n"
		if log != "by descriptor\n"+byMessage && log != byMessage+"by descriptor\n" &&
			log != strings.Replace(byMessage, "\n", "\nby descriptor\n", 1) {
			t.Errorf("the log is %q", log)
		}
		b.gone()

		// It has its build: this is another.
		try(t, p, l.request(), Declined)
		if got := strings.Count(recorded(t, record), "args"); got != 2 {
			t.Errorf("%d hooks were started", got)
		}
		p.Close()
		b.gone()
		if _, _, err := p.Try(t.Context(), l.request()); !errors.Is(err, ErrClosed) {
			t.Errorf("a closed pool says %v", err)
		}
	})
}

func TestPoolDeclinedForGood(t *testing.T) {
	b := newBench(t)
	h, record := b.played("decline-permanently 0")
	p := pool(t, h)
	for range 3 {
		try(t, p, Request{}, DeclinedForGood)
		b.gone()
	}
	if got := strings.Count(recorded(t, record), "args"); got != 1 {
		t.Errorf("%d hooks were started", got)
	}
}

func TestPoolFailedBuild(t *testing.T) {
	b := newBench(t)
	h, _ := b.played("accept 5")
	var l listener
	running := try(t, pool(t, h), l.request(), Accepted)
	err := running.Wait(t.Context())
	var exit *ExitError
	if !errors.As(err, &exit) || exit.Code != 5 || exit.How() != "failed with exit code 5" {
		t.Errorf("it ended with %v", err)
	}
	if want := "program \"/proc/self/exe\" failed with exit code 5; it printed:\nthinking\nerror: at the end\nto standard output"; err == nil || err.Error() != want {
		t.Errorf("the error is %v, want %s", err, want)
	}
}

// TestPoolManyAtOnce has requests wait for each other, and builds run side by
// side.
func TestPoolManyAtOnce(t *testing.T) {
	b := newBench(t)
	h, record := b.played("decline accept 0")
	p := pool(t, h)
	var all sync.WaitGroup
	var mu sync.Mutex
	verdicts := map[Verdict]int{}
	for range 8 {
		all.Go(func() {
			v, running, err := p.Try(t.Context(), Request{})
			if err == nil && v == Accepted {
				err = running.Wait(t.Context())
			}
			if err != nil {
				t.Error(err)
			}
			mu.Lock()
			defer mu.Unlock()
			verdicts[v]++
		})
	}
	all.Wait()
	if diff := cmp.Diff(map[Verdict]int{Declined: 4, Accepted: 4}, verdicts); diff != "" {
		t.Errorf("verdicts (-want +got):\n%s", diff)
	}
	if got := strings.Count(recorded(t, record), "args"); got != 4 {
		t.Errorf("%d hooks were started", got)
	}
}

func TestPoolCloseEndsRequests(t *testing.T) {
	b := newBench(t)
	here := b.fifo("here")
	p := pool(t, BuildHook{Words: []string{b.script(`echo waiting; echo > ` + here + `; ` + b.sleep())}, Env: b.Env()})
	closed := b.cancelledBy(here, errors.New("it is asked"))
	done := make(chan struct{})
	go func() {
		defer close(done)
		<-closed.Done()
		p.Close()
	}()
	if _, _, err := p.Try(t.Context(), Request{}); !errors.Is(err, ErrClosed) || !strings.HasSuffix(err.Error(), "; it printed:\nwaiting") {
		t.Errorf("it ended with %v", err)
	}
	<-done
	b.gone()
}

func TestPoolTurn(t *testing.T) {
	b := newBench(t)
	here := b.fifo("here")
	enough := errors.New("enough")
	p := pool(t, BuildHook{Words: []string{b.script(`echo > ` + here + `; ` + b.sleep())}, Env: b.Env(), KillTimeout: time.Second})
	first := b.cancelledBy(here, enough)
	var both sync.WaitGroup
	for range 2 {
		both.Go(func() {
			// Whoever comes second is told while it waits for its turn.
			if _, _, err := p.Try(first, Request{}); !errors.Is(err, enough) {
				t.Errorf("it ended with %v", err)
			}
		})
	}
	both.Wait()
	b.gone()
}

func TestVerdict(t *testing.T) {
	for v, want := range map[Verdict]string{Declined: "decline", Accepted: "accept", 0: "verdict 0"} {
		if got := v.String(); got != want {
			t.Errorf("%d is %q, want %q", v, got, want)
		}
	}
}
