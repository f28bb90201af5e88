package daemon

import (
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/logline"
	"github.com/kilnbuild/kiln/wire/worker"
)

// A tunnel is the way to the client. Messages go out while a request is carried out,
// and at no other time; replies and errors end that. Nobody waits for a slow client
// but who carries out its request: messages wait in a queue that has a limit.
type tunnel struct {
	owe     func() (done func()) // says that what is sent belongs to a reply
	gone    func()               // is told that nothing can be sent any more
	sending sync.Mutex           // for what is written: it may block as long as the client likes
	e       *worker.Encoder

	mu      sync.Mutex // for what is below: it never blocks for long
	wake    sync.Cond
	working bool
	stopped bool
	limit   int
	size    int // bytes of queue
	queue   []message
	lost    int // messages that had no room

	ended chan struct{}
}

// A message is one for the client: an activity's, or if that has no action a text.
type message struct {
	activity logline.Message
	text     string
}

// size is about what a message takes in memory.
func (m *message) size() int {
	const itself = 160
	n := itself + len(m.text) + len(m.activity.Text)
	for _, f := range m.activity.Fields {
		n += len(f.Text) + 32
	}
	return n
}

func newTunnel(e *worker.Encoder, limit int, owe func() func(), gone func()) *tunnel {
	t := &tunnel{owe: owe, gone: gone, e: e, limit: limit, working: true, ended: make(chan struct{})}
	t.wake.L = &t.mu
	go t.pass()
	return t
}

// stop ends the tunnel's goroutine and waits for it. It must not be blocked: the
// connection is closed, or the client reads.
func (t *tunnel) stop() {
	t.mu.Lock()
	t.stopped = true
	t.wake.Signal()
	t.mu.Unlock()
	<-t.ended
}

// start says that a request begins: messages may be sent.
func (t *tunnel) start() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.working = true
}

// put takes a message. Those that tell how activities begin and end always find
// room: there are never more of them than derivations.
func (t *tunnel) put(m message) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.working || t.stopped {
		return
	}
	size := m.size()
	must := m.activity.Action == logline.Start || m.activity.Action == logline.Stop
	if t.size+size > t.limit && !must {
		t.lost++
		return
	}
	t.queue = append(t.queue, m)
	t.size += size
	t.wake.Signal()
}

// pass sends messages as they come.
func (t *tunnel) pass() {
	defer close(t.ended)
	for {
		t.mu.Lock()
		for len(t.queue) == 0 && !t.stopped {
			t.wake.Wait()
		}
		stopped := t.stopped
		t.mu.Unlock()
		if stopped {
			return
		}
		t.sending.Lock()
		t.send()
		err := t.e.Flush()
		t.sending.Unlock()
		if err != nil {
			t.gone()
		}
	}
}

// send writes what is in the queue. sending is held. An error stays in the Encoder.
func (t *tunnel) send() {
	t.mu.Lock()
	queue, lost := t.queue, t.lost
	t.queue, t.size, t.lost = nil, 0, 0
	t.mu.Unlock()
	for i := range queue {
		if m := &queue[i]; m.activity.Action != 0 {
			t.e.Activity(&m.activity)
		} else {
			t.e.Next(m.text)
		}
	}
	if lost > 0 {
		t.e.Next(fmt.Sprintf("%d messages were left out, since they came faster than they were read\n", lost))
	}
}

// finish sends what waits, and then what ends the request.
func (t *tunnel) finish(last func() error) error {
	t.mu.Lock()
	t.working = false
	t.mu.Unlock()
	defer t.owe()()
	t.sending.Lock()
	defer t.sending.Unlock()
	t.send()
	if err := last(); err != nil {
		return err
	}
	return t.e.Flush()
}

// reply tells the client that its request was carried out.
func (t *tunnel) reply(r reply) error {
	return t.finish(func() error {
		t.e.Last()
		if err := r(t.e); err != nil {
			return errors.Join(err, t.e.Flush())
		}
		return nil
	})
}

// fail tells the client that its request failed.
func (t *tunnel) fail(err error) error {
	return t.finish(func() error {
		t.e.Error(clientError(err))
		return nil
	})
}

// ask has the client send a string of at most n bytes, before anything else.
func (t *tunnel) ask(n int) error {
	defer t.owe()()
	t.sending.Lock()
	defer t.sending.Unlock()
	return t.e.AskForData(n)
}

// data sends a part of what the client has asked for while its request is carried out.
func (t *tunnel) data(p []byte) error {
	defer t.owe()()
	t.sending.Lock()
	defer t.sending.Unlock()
	return t.e.Data(p)
}

// statusError is an error with an exit status for the client's program.
type statusError struct {
	message string
	status  int
}

func (e *statusError) Error() string { return e.message }

// clientError is an error as clients are told.
func clientError(err error) *worker.Error {
	told := &worker.Error{Message: err.Error(), Status: 1}
	var status *statusError
	var build *nix.BuildError
	switch {
	case errors.As(err, &status):
		told.Status = status.status
	case errors.As(err, &build):
		told.Status = nix.ExitStatus(build.Status)
	}
	return told
}

// legacyIDs has the encoder name realisations by what is in ids.
func legacyIDs(e *worker.Encoder, ids map[nix.DrvOutput]string) {
	e.LegacyID = func(id nix.DrvOutput) string { return ids[id] }
}

// sorted is a sorted copy.
func sorted(paths []nix.StorePath) []nix.StorePath {
	return slices.Sorted(slices.Values(paths))
}
