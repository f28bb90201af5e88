package remote_test

import (
	"bytes"
	"context"
	"io"
	"testing"

	"github.com/kilnbuild/kiln/daemon"
	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/store"
	"github.com/kilnbuild/kiln/store/remote"
	"github.com/kilnbuild/kiln/store/storetest"
	"github.com/kilnbuild/kiln/wire/worker"
)

// A script is a daemon that says what it says, whatever it is told.
type script struct{ io.Reader }

func (script) Write(p []byte) (int, error) { return len(p), nil }
func (script) Close() error                { return nil }

// A recorder keeps what a daemon says.
type recorder struct {
	io.ReadWriteCloser
	said *bytes.Buffer
}

func (r recorder) Read(p []byte) (int, error) {
	n, err := r.ReadWriteCloser.Read(p)
	r.said.Write(p[:n])
	return n, err
}

// FuzzDaemon has a daemon say anything: the store neither panics nor waits for more
// than comes. The seeds are what kiln's own daemon says.
func FuzzDaemon(f *testing.F) {
	m := storetest.NewMemory(nix.DefaultStoreDir)
	o := storetest.Built(f, m.Dir(), "o", false)
	drv, _ := drvOf(f, m.Dir(), "works", nil)
	if err := m.Add(context.Background(), &o.Info, bytes.NewReader(o.NAR), store.AddOptions{}); err != nil {
		f.Fatal(err)
	}
	if err := m.Add(context.Background(), &drv.Info, bytes.NewReader(drv.NAR), store.AddOptions{}); err != nil {
		f.Fatal(err)
	}
	calls := []func(ctx context.Context, s *remote.Store) error{
		func(ctx context.Context, s *remote.Store) error { return s.NAR(ctx, o.Info.Path, io.Discard) },
		func(ctx context.Context, s *remote.Store) error {
			_, err := s.PathInfos(ctx, []nix.StorePath{o.Info.Path, drv.Info.Path})
			return err
		},
		func(ctx context.Context, s *remote.Store) error {
			return s.Add(ctx, &o.Info, bytes.NewReader(o.NAR), store.AddOptions{})
		},
		func(ctx context.Context, s *remote.Store) error {
			_, err := s.Build(ctx, &nix.BuildRequest{Paths: []nix.DerivedPath{nix.Built(drv.Info.Path, nix.AllOutputs)}, Log: &events{}})
			return err
		},
	}
	dial := serveDaemon(f, daemon.Config{Store: m, Builder: builderOf(f, m), Trust: worker.Trusted})
	for i, call := range calls {
		var said bytes.Buffer
		s := open(f, remote.Options{MaxConnections: 1, Dial: func(ctx context.Context) (io.ReadWriteCloser, error) {
			c, err := dial(ctx)
			return recorder{c, &said}, err
		}})
		if err := call(context.Background(), s); err != nil {
			f.Fatal(err)
		}
		f.Add(uint8(i), said.Bytes())
	}
	f.Fuzz(func(t *testing.T, i uint8, said []byte) {
		s, err := remote.Open(remote.Options{Dial: func(context.Context) (io.ReadWriteCloser, error) {
			return script{bytes.NewReader(said)}, nil
		}})
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		calls[int(i)%len(calls)](t.Context(), s)
	})
}
