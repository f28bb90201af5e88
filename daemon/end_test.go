package daemon

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/wire/worker"
)

// TestDrain closes the connection of an idle client at once, and that of a busy one when
// it has its reply.
func TestDrain(t *testing.T) {
	drain := make(chan struct{})
	begun, proceed := make(chan struct{}), make(chan struct{})
	b := buildFunc(func(ctx context.Context, req *nix.BuildRequest) ([]nix.BuildResult, error) {
		close(begun)
		<-proceed
		return []nix.BuildResult{{Path: req.Paths[0]}}, context.Cause(ctx)
	})
	cfg := Config{Store: newStore(t), Builder: b, Drain: drain}
	idle, busy := connect(t, t.Context(), cfg, worker.Newest), connect(t, t.Context(), cfg, worker.Newest)
	idle.usable()
	worker.WriteRequest(busy.e, &worker.BuildRequest{Operation: worker.OpBuildPaths, Paths: []nix.DerivedPath{nix.Opaque(none)}})
	busy.e.Flush()
	<-begun
	close(drain)
	if err := <-idle.ended; err != nil {
		t.Errorf("the idle one: %v", err)
	}
	select {
	case err := <-busy.ended:
		t.Errorf("the busy one was not waited for: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	close(proceed)
	if err := busy.messages(); err != nil {
		t.Fatal(err)
	}
	if n := busy.d.Uint64(); n != 1 {
		t.Errorf("reply %d", n)
	}
	if err := <-busy.ended; err != nil {
		t.Errorf("the busy one: %v", err)
	}
	// One that comes too late.
	late, client := pair(t)
	defer client.Close()
	ended := make(chan error, 1)
	go func() { ended <- Serve(t.Context(), late, cfg) }()
	client.Close()
	<-ended
}

func TestRefusal(t *testing.T) {
	why := errors.New("there are too many of you")
	for v := worker.Oldest; v <= worker.Newest; v++ {
		server, client := pair(t)
		ended := make(chan error, 1)
		go func() { ended <- Serve(t.Context(), server, Config{Store: newStore(t), Refusal: why}) }()
		p := newPeer(t, client)
		if _, err := worker.Handshake(p.d, p.e, v, nil); err != nil {
			t.Fatal(err)
		}
		var told *worker.Error
		if err := p.messages(); !errors.As(err, &told) || !contains(told.Message, why.Error()) {
			t.Errorf("%v was told: %v", v, err)
		}
		if err := <-ended; !errors.Is(err, why) {
			t.Errorf("%v: %v", v, err)
		}
	}
}

// TestHandshakeTimeout has clients connect and say nothing, or not enough. Those that
// have said what they speak may be silent for longer.
func TestHandshakeTimeout(t *testing.T) {
	cfg := Config{Store: newStore(t), Limits: Limits{Handshake: 100 * time.Millisecond}}
	for _, said := range [][]byte{nil, []byte("cxin\x00\x00\x00\x00")} {
		server, client := pair(t)
		ended := make(chan error, 1)
		go func() { ended <- Serve(t.Context(), server, cfg) }()
		client.Write(said)
		select {
		case err := <-ended:
			if err == nil {
				t.Error("no error")
			}
		case <-time.After(10 * time.Second):
			t.Fatal("it waits for ever")
		}
	}
	p := connect(t, t.Context(), cfg, worker.Newest)
	time.Sleep(200 * time.Millisecond)
	p.usable()
	p.bye()
}
