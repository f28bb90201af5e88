package remote_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kilnbuild/kiln/daemon"
	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/sign"
	"github.com/kilnbuild/kiln/store"
	"github.com/kilnbuild/kiln/store/local"
	"github.com/kilnbuild/kiln/store/remote"
	"github.com/kilnbuild/kiln/store/storetest"
	"github.com/kilnbuild/kiln/wire/worker"
)

// A server is a daemon, or a server of the serve protocol, of the store in a directory.
type server struct {
	dir    string
	key    string // whose signatures the store believes
	legacy bool
}

// asServer makes the test binary a server that speaks to its standard input and output. Its
// value is what server.String gives.
const asServer = "KILN_REMOTE_SERVER"

func (s server) String() string { return fmt.Sprintf("%t %s %s", s.legacy, s.key, s.dir) }

func init() {
	roles[asServer] = func(value string) error {
		words := strings.SplitN(value, " ", 3)
		return server{legacy: words[0] == "true", key: words[1], dir: words[2]}.serve(context.Background(), stdio{})
	}
}

// stdio is the standard input and output.
type stdio struct{}

func (stdio) Read(p []byte) (int, error)  { return os.Stdin.Read(p) }
func (stdio) Write(p []byte) (int, error) { return os.Stdout.Write(p) }
func (stdio) Close() error                { return errors.Join(os.Stdin.Close(), os.Stdout.Close()) }

// openStore opens the server's store.
func (s server) openStore(ctx context.Context) (*local.Store, error) {
	key, err := sign.ParsePublicKey(s.key)
	if err != nil {
		return nil, err
	}
	opts := local.ChrootOptions(s.dir)
	opts.FsyncMetadata, opts.ReservedSpace = false, 0
	opts.VerifySignatures = func(info *nix.PathInfo) error {
		if !sign.NewKeys(key).TrustedObject(nix.DefaultStoreDir, info) {
			return errors.New("it has no signature that is trusted")
		}
		return nil
	}
	return local.Open(ctx, opts)
}

func (s server) serve(ctx context.Context, conn io.ReadWriteCloser) error {
	st, err := s.openStore(ctx)
	if err != nil {
		return errors.Join(err, conn.Close())
	}
	if s.legacy {
		err = daemon.ServeLegacy(ctx, conn, daemon.LegacyConfig{Store: st, Write: true})
	} else {
		err = daemon.Serve(ctx, conn, daemon.Config{Store: st, Trust: worker.NotTrusted})
	}
	return errors.Join(err, st.Close())
}

// bySocket gives a Dial to the server in this process, and what waits for its end.
func (s server) bySocket(t *testing.T) (dial func(context.Context) (io.ReadWriteCloser, error), wait func()) {
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "socket"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	var served sync.WaitGroup
	return func(ctx context.Context) (io.ReadWriteCloser, error) {
		near, err := net.Dial("unix", l.Addr().String())
		if err != nil {
			return nil, err
		}
		far, err := l.Accept()
		if err != nil {
			return nil, errors.Join(err, near.Close())
		}
		served.Go(func() { s.serve(context.WithoutCancel(ctx), far) })
		return near, nil
	}, served.Wait
}

// byProgram gives a Dial to the server in a program, whose end closing a connection waits
// for.
func (s server) byProgram(*testing.T) (dial func(context.Context) (io.ReadWriteCloser, error), wait func()) {
	program := []string{"env", asServer + "=" + s.String(), os.Args[0]}
	return remote.SSH(remote.SSHOptions{Authority: "localhost", RemoteProgram: program}), func() {}
}

// signedObjects are objects that refer to each other, one of which is not small, and the
// key that has signed them.
func signedObjects(t *testing.T) ([]storetest.Object, sign.PublicKey) {
	t.Helper()
	k, err := sign.GenerateKey("test-1")
	if err != nil {
		t.Fatal(err)
	}
	noise := make([]byte, 40_000)
	rand.NewChaCha8([32]byte{}).Read(noise)
	leaf := storetest.Built(t, nix.DefaultStoreDir, "leaf", true)
	large := storetest.Built(t, nix.DefaultStoreDir, "large", false)
	large.NAR = storetest.Archive(t, storetest.Node{Content: string(noise)})
	large.Info.NARHash, large.Info.NARSize = nix.HashBytes(nix.SHA256, large.NAR), int64(len(large.NAR))
	objects := []storetest.Object{leaf, large, storetest.Built(t, nix.DefaultStoreDir, "top", false, leaf.Info.Path, large.Info.Path)}
	for i := range objects {
		signature, err := k.SignObject(nix.DefaultStoreDir, &objects[i].Info)
		if err != nil {
			t.Fatal(err)
		}
		objects[i].Info.Signatures = []string{signature}
	}
	return objects, k.Public()
}

// TestFaultyLine copies from and to servers over lines that cut, delay, corrupt, lose and
// repeat, at random places with fixed seeds, and verifies the store that was copied to.
// With KILN_FAULT_RUNS=200 it does so more often.
func TestFaultyLine(t *testing.T) {
	objects, key := signedObjects(t)
	full := server{dir: storetest.Root(t), key: key.String()}
	st, err := full.openStore(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	storetest.Add(t, st, objects...)
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	for i, kind := range []struct {
		name    string
		legacy  bool
		connect func(server, *testing.T) (func(context.Context) (io.ReadWriteCloser, error), func())
		few     int
	}{
		{"unix", false, server.bySocket, 8},
		{"ssh-ng", false, server.byProgram, 3},
		{"ssh", true, server.byProgram, 3},
	} {
		t.Run(kind.name, func(t *testing.T) {
			t.Parallel()
			var good [2]int // reading, writing
			for seed := range 2 * storetest.FaultRuns(kind.few) {
				other := server{dir: storetest.Root(t), key: full.key, legacy: kind.legacy}
				far := other
				reads := seed%2 == 0
				if reads {
					far.dir = full.dir
				}
				// Every other time where the requests are, and else where the content is.
				most := []int64{3_000, 50_000}[seed/2%2]
				dial, wait := kind.connect(far, t)
				dial = storetest.NewFaults(most, uint64(i), uint64(seed)).Lines(dial)
				err := copyBy(t, dial, kind.legacy, reads, full, other, objects)
				wait()
				if err == nil {
					good[seed%2]++
				}
				verify(t, other, objects, err)
				if t.Failed() {
					t.Fatalf("with seed %d: %v", seed, err)
				}
			}
			// Of few runs none may go well on a busy machine, where programs take long to start.
			if kind.few >= 8 && (good[0] == 0 || good[1] == 0) {
				t.Errorf("everything was read %d times and written %d times", good[0], good[1])
			}
		})
	}
}

// copyBy copies everything from one store to another, one of which is behind a line.
func copyBy(t *testing.T, dial func(context.Context) (io.ReadWriteCloser, error), legacy, reads bool, from, to server, objects []storetest.Object) error {
	var far store.Store
	var closer io.Closer
	if legacy {
		s, err := remote.OpenLegacy(remote.LegacyOptions{Dial: dial})
		if err != nil {
			t.Fatal(err)
		}
		far, closer = s, s
	} else {
		s, err := remote.Open(remote.Options{Dial: dial})
		if err != nil {
			t.Fatal(err)
		}
		far, closer = s, s
	}
	defer closer.Close()
	near, err := map[bool]server{true: to, false: from}[reads].openStore(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := near.Close(); err != nil {
			t.Error(err)
		}
	}()
	ctx, cancel := context.WithTimeoutCause(t.Context(), 30*time.Second, errors.New("it takes too long"))
	defer cancel()
	top := []nix.StorePath{objects[len(objects)-1].Info.Path}
	if reads {
		err = store.CopyClosure(ctx, far, near, top, store.CopyOptions{CheckSignatures: true})
	} else {
		// Who is spoken to by ssh believes what he is told.
		err = store.CopyClosure(ctx, near, far, top, store.CopyOptions{CheckSignatures: !legacy})
	}
	if ctx.Err() != nil {
		t.Error(context.Cause(ctx))
	}
	return err
}

// verify looks at the store that was copied to: what is valid has the content that it is
// registered with, and there is nothing else.
func verify(t *testing.T, s server, objects []storetest.Object, copied error) {
	t.Helper()
	st, err := s.openStore(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer st.Close()
	if _, err := st.Verify(t.Context(), local.VerifyOptions{CheckContents: true, Problem: func(p local.Problem) { t.Error(p) }}); err != nil {
		t.Error(err)
	}
	valid := map[string]bool{".links": true}
	for p, err := range st.AllValidPaths(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		valid[string(p)] = true
	}
	entries, err := os.ReadDir(filepath.Join(s.dir, "nix/store"))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !valid[e.Name()] {
			t.Errorf("'%s' is left in the store", e.Name())
		}
	}
	for _, o := range objects {
		switch {
		case s.legacy && copied != nil:
			// What was said of an object may have been changed on the way.
		case valid[string(o.Info.Path)]:
			storetest.Check(t, st, o)
		case copied == nil:
			t.Errorf("'%s' is not there", o.Info.Path)
		}
	}
}

// TestBatches adds many objects to a daemon whose store takes many at once: what comes
// before one that is not right stays, and nothing behind it is added.
func TestBatches(t *testing.T) {
	objects, key := signedObjects(t)
	bad := objects[2]
	objects = objects[:2]
	bad.NAR = bytes.Replace(bad.NAR, []byte("top"), []byte("tip"), 1)
	far := server{dir: storetest.Root(t), key: key.String()}
	dial, wait := far.bySocket(t)
	s := open(t, remote.Options{Dial: dial})
	for i := range 300 {
		objects = append(objects, storetest.Text(t, nix.DefaultStoreDir, fmt.Sprintf("text-%d", i), strings.Repeat("x", i)))
	}
	large := storetest.Text(t, nix.DefaultStoreDir, "large-text", strings.Repeat("large", 40_000))
	last := storetest.Text(t, nix.DefaultStoreDir, "last", "last")
	objects = append(objects, large, storetest.Text(t, nix.DefaultStoreDir, "next", "next", large.Info.Path))
	add := func(objects ...storetest.Object) error {
		var infos []*nix.PathInfo
		for i := range objects {
			infos = append(infos, &objects[i].Info)
		}
		return s.AddMany(t.Context(), infos, func(_ context.Context, i int, w io.Writer) error {
			_, err := w.Write(objects[i].NAR)
			return err
		}, store.AddOptions{CheckSignatures: true})
	}
	if err := add(objects...); err != nil {
		t.Fatal(err)
	}
	if err := add(objects...); err != nil {
		t.Errorf("again: %v", err)
	}
	before := storetest.Text(t, nix.DefaultStoreDir, "before", "before", large.Info.Path)
	if err := add(before, bad, last); err == nil || !strings.Contains(err.Error(), "hash mismatch") {
		t.Errorf("error %v", err)
	}
	storetest.Check(t, s, before)
	storetest.CheckMissing(t, s, bad.Info.Path)
	storetest.CheckMissing(t, s, last.Info.Path)
	s.Close()
	wait()
	verify(t, far, append(objects, before), nil)
}
