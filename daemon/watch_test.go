package daemon

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/store/storetest"
	"github.com/kilnbuild/kiln/wire/worker"
)

// waitForEnd is a builder that builds until it is told to stop, and tells why.
func waitForEnd(begun chan<- struct{}, why chan<- error, say func(nix.LogSink)) nix.Builder {
	return buildFunc(func(ctx context.Context, req *nix.BuildRequest) ([]nix.BuildResult, error) {
		close(begun)
		for {
			select {
			case <-ctx.Done():
				why <- context.Cause(ctx)
				return nil, context.Cause(ctx)
			case <-time.After(5 * time.Millisecond):
				say(req.Log)
			}
		}
	})
}

// TestClientGone has a client leave while something is built for it, also when it has said
// something before that nobody has read, and as much as is ever read ahead.
func TestClientGone(t *testing.T) {
	silent := func(nix.LogSink) {}
	for name, tt := range map[string]struct {
		left string
		say  func(nix.LogSink)
	}{
		"nothing said":  {"", silent},
		"something":     {"x", silent},
		"more than all": {strings.Repeat("x", 64<<10), func(log nix.LogSink) { log.BuildLog(none+".drv", []byte("line\n")) }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			begun, why := make(chan struct{}), make(chan error, 1)
			p := connect(t, t.Context(), Config{Store: newStore(t), Builder: waitForEnd(begun, why, tt.say)}, worker.Newest)
			worker.WriteRequest(p.e, &worker.BuildRequest{Operation: worker.OpBuildPaths, Paths: []nix.DerivedPath{nix.Opaque(none)}})
			io.WriteString(p.e, tt.left)
			p.e.Flush()
			<-begun
			p.conn.Close()
			select {
			case err := <-why:
				if !errors.Is(err, ErrClientGone) {
					t.Errorf("it ended because of: %v", err)
				}
			case <-time.After(20 * time.Second):
				t.Fatal("nobody noticed")
			}
			<-p.ended
		})
	}
}

// TestSaysMoreMeanwhile has a client send its next request while the first one is carried
// out, and be looked at.
func TestSaysMoreMeanwhile(t *testing.T) {
	t.Parallel()
	b := buildFunc(func(_ context.Context, req *nix.BuildRequest) ([]nix.BuildResult, error) {
		time.Sleep(4 * watchAfter)
		return make([]nix.BuildResult, len(req.Paths)), nil
	})
	p := connect(t, t.Context(), Config{Store: newStore(t), Builder: b}, worker.Newest)
	build := &worker.BuildRequest{Operation: worker.OpBuildPaths, Paths: []nix.DerivedPath{nix.Opaque(none)}}
	worker.WriteRequest(p.e, build)
	worker.WriteRequest(p.e, build)
	p.e.Flush()
	for range 2 {
		if err := p.messages(); err != nil || p.d.Uint64() != 1 {
			t.Fatal(err)
		}
	}
	p.usable()
	p.bye()
}

// TestStalled has clients not read a reply, and others read it slowly. Who does not read what a
// builder prints is not given up before its reply is due.
func TestStalled(t *testing.T) {
	large := storetest.Object{NAR: storetest.Archive(t, storetest.Node{Content: strings.Repeat("0123456789abcdef", 256<<10)})}
	large.Info = nix.PathInfo{Path: none, NARHash: nix.HashBytes(nix.SHA256, large.NAR), NARSize: int64(len(large.NAR))}
	s := newStore(t, large)
	const stall = 200 * time.Millisecond
	gaveUp := func(t *testing.T, p *peer) {
		t.Helper()
		select {
		case err := <-p.ended:
			if !errors.Is(err, errStalled) {
				t.Errorf("it ended with: %v", err)
			}
		case <-time.After(20 * time.Second):
			t.Error("it waits for ever")
		}
	}
	for name, r := range map[string]worker.Request{
		"archive": path(worker.OpNarFromPath, none),
		"export":  &worker.ExportPath{Path: none},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := connect(t, t.Context(), Config{Store: s, Limits: Limits{Stall: stall}}, worker.Newest)
			worker.WriteRequest(p.e, r)
			p.e.Flush()
			gaveUp(t, p)
		})
	}
	t.Run("slow", func(t *testing.T) {
		t.Parallel()
		p := connect(t, t.Context(), Config{Store: s, Limits: Limits{Stall: stall}}, worker.Newest)
		p.must(path(worker.OpNarFromPath, none))
		for left := int64(len(large.NAR)); left > 0; {
			time.Sleep(stall / 3)
			n, err := io.CopyN(io.Discard, p.d, min(left, 512<<10))
			if left -= n; err != nil {
				t.Fatalf("%d bytes did not come: %v", left, err)
			}
		}
		p.usable()
		p.bye()
	})
	t.Run("log", func(t *testing.T) {
		t.Parallel()
		printed := make(chan struct{})
		b := buildFunc(func(_ context.Context, req *nix.BuildRequest) ([]nix.BuildResult, error) {
			line := []byte(strings.Repeat("x", 1000) + "\n")
			for range 2000 {
				req.Log.BuildLog(none+".drv", line)
			}
			time.Sleep(3 * stall)
			close(printed)
			return make([]nix.BuildResult, len(req.Paths)), nil
		})
		p := connect(t, t.Context(), Config{Store: s, Builder: b, Limits: Limits{Stall: stall}}, worker.Newest)
		worker.WriteRequest(p.e, &worker.BuildRequest{Operation: worker.OpBuildPaths, Paths: []nix.DerivedPath{nix.Opaque(none)}})
		p.e.Flush()
		<-printed
		gaveUp(t, p)
	})
}
