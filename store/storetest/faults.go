package storetest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// FaultRuns is how often a kind of store is used with faults: KILN_FAULT_RUNS, or few
// times.
func FaultRuns(few int) int {
	if n, err := strconv.Atoi(os.Getenv("KILN_FAULT_RUNS")); err == nil {
		return n
	}
	return few
}

// Faults spoil what is said over lines: they cut it off, hold it up, change a bit, leave
// something out or say it twice, at places that follow from a seed. They are safe for
// concurrent use.
type Faults struct {
	mu   sync.Mutex
	rand *rand.Rand
	most int64
}

// NewFaults makes faults that come within the first most bytes of what is said in one
// direction.
func NewFaults(most int64, seed1, seed2 uint64) *Faults {
	return &Faults{rand: rand.New(rand.NewPCG(seed1, seed2)), most: most}
}

// What may happen.
const (
	faultCut = iota
	faultPause
	faultFlip
	faultLoss
	faultEcho
	faultNone
	faults
)

// slip is how many bytes are lost, or said twice.
const slip = 10

var errCut = errors.New("the line was cut")

// A fault is what happens to one direction of a line.
type fault struct {
	at   int64 // how many bytes pass before it
	what int
	bit  byte
	left int // bytes that are lost
}

func (f *Faults) next() *fault {
	f.mu.Lock()
	defer f.mu.Unlock()
	at := f.rand.Int64N(f.most)
	return &fault{at: at, what: f.rand.IntN(faults), bit: 1 << (at % 8)}
}

// pass gives what comes of the next bytes. They stay as they are.
func (f *fault) pass(p []byte) ([]byte, error) {
	lost := min(f.left, len(p))
	f.left -= lost
	p = p[lost:]
	n := int64(len(p))
	if n == 0 || f.what == faultNone || f.at >= n {
		f.at -= n
		return p, nil
	}
	before, rest, what := p[:f.at], p[f.at:], f.what
	if f.at = 0; what == faultCut {
		return before, errCut // and so from now on
	}
	f.what = faultNone
	switch what {
	case faultPause:
		time.Sleep(150 * time.Millisecond)
	case faultFlip:
		p = bytes.Clone(p)
		p[len(before)] ^= f.bit
	case faultLoss:
		n := min(slip, len(rest))
		f.left = slip - n
		p = bytes.Join([][]byte{before, rest[n:]}, nil)
	case faultEcho:
		p = bytes.Join([][]byte{before, rest[:min(slip, len(rest))], rest}, nil)
	}
	return p, nil
}

// A spoiler is a writer behind a fault.
type spoiler struct {
	w     io.Writer
	fault *fault
}

func (s spoiler) Write(p []byte) (int, error) {
	passed, cut := s.fault.pass(p)
	if _, err := s.w.Write(passed); err != nil {
		return 0, err
	}
	return len(p), cut
}

// Copy copies r to w with a fault. It ends where the line is cut.
func (f *Faults) Copy(w io.Writer, r io.Reader) { io.Copy(spoiler{w, f.next()}, r) }

// both gives a fault for one of the two directions of a line, and none for the other.
func (f *Faults) both() (in, out *fault) {
	in, out = f.next(), f.next()
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.rand.IntN(2) == 0 {
		in.what = faultNone
	} else {
		out.what = faultNone
	}
	return in, out
}

// Lines gives what connects as dial does, over lines with a fault in one direction. Who
// waits for what was lost on the way would wait for ever, so a line on which nothing is
// said for a while is cut, though later if the other side has yet to begin.
func (f *Faults) Lines(dial func(context.Context) (io.ReadWriteCloser, error)) func(context.Context) (io.ReadWriteCloser, error) {
	const silence, start = 600 * time.Millisecond, 8 * time.Second
	return func(ctx context.Context) (io.ReadWriteCloser, error) {
		raw, err := dial(ctx)
		if err != nil {
			return nil, err
		}
		in, out := f.both()
		l := &line{raw: raw, in: in, out: spoiler{raw, out}}
		l.clock = time.AfterFunc(start, func() { raw.Close() })
		l.tick = func() { l.clock.Reset(silence) }
		return l, nil
	}
}

// A line is a connection with faults.
type line struct {
	raw   io.ReadWriteCloser
	in    *fault
	out   spoiler
	have  []byte      // was read
	cut   error       // comes after that
	begun atomic.Bool // the other side has said something
	clock *time.Timer
	tick  func()
}

func (l *line) Read(p []byte) (int, error) {
	for len(l.have) == 0 && l.cut == nil {
		n, err := l.raw.Read(p)
		l.begun.Store(true)
		l.tick()
		passed, cut := l.in.pass(p[:n])
		l.have = bytes.Clone(passed)
		if l.cut = err; cut != nil {
			l.raw.Close()
			l.cut = io.EOF
		}
	}
	if len(l.have) == 0 {
		return 0, l.cut
	}
	n := copy(p, l.have)
	l.have = l.have[n:]
	return n, nil
}

func (l *line) Write(p []byte) (int, error) {
	n, err := l.out.Write(p)
	if l.begun.Load() {
		l.tick()
	}
	if errors.Is(err, errCut) {
		l.raw.Close()
	}
	return n, err
}

func (l *line) Close() error {
	l.clock.Stop()
	return l.raw.Close()
}
