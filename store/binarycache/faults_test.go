package binarycache

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"log"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/sign"
	"github.com/kilnbuild/kiln/store"
	"github.com/kilnbuild/kiln/store/storetest"
)

// A line carries what a server says, and spoils it.
type line struct {
	net.Listener
	server string
	faults *storetest.Faults
	// both says that what the clients say is spoilt, too.
	both bool
	wait sync.WaitGroup
}

// newLine makes a line to a server, which is closed by end.
func newLine(t *testing.T, server string, faults *storetest.Faults, both bool) *line {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := &line{Listener: listener, server: server, faults: faults, both: both}
	l.wait.Go(l.carry)
	return l
}

func (l *line) end() {
	l.Close()
	l.wait.Wait()
}

// carry carries until the line is closed.
func (l *line) carry() {
	for {
		client, err := l.Accept()
		if err != nil {
			return
		}
		l.wait.Go(func() {
			defer client.Close()
			server, err := net.Dial("tcp", l.server)
			if err != nil {
				return
			}
			defer server.Close()
			asked := make(chan struct{})
			go func() {
				defer close(asked)
				if l.both {
					l.faults.Copy(server, client)
				} else {
					io.Copy(server, client)
				}
				server.(*net.TCPConn).CloseWrite()
			}()
			l.faults.Copy(client, server)
			client.Close()
			<-asked
		})
	}
}

// fair has objects in a cache that is read with faults, and the key that has signed them.
func fair(t *testing.T) (objects []storetest.Object, cache string, trusted sign.Keys) {
	t.Helper()
	k, err := sign.GenerateKey("test-1")
	if err != nil {
		t.Fatal(err)
	}
	leaf := storetest.Built(t, dir, "leaf", true)
	noise := make([]byte, 40_000)
	rand.NewChaCha8([32]byte{}).Read(noise)
	large := storetest.Built(t, dir, "large", false)
	large.NAR = storetest.Archive(t, storetest.Node{Content: string(noise)})
	large.Info.NARHash, large.Info.NARSize = nix.HashBytes(nix.SHA256, large.NAR), int64(len(large.NAR))
	objects = []storetest.Object{leaf, large, storetest.Built(t, dir, "top", false, leaf.Info.Path, large.Info.Path)}
	c, cache := create(t, Options{Compression: "zstd"})
	for i := range objects {
		signature, err := k.SignObject(dir, &objects[i].Info)
		if err != nil {
			t.Fatal(err)
		}
		objects[i].Info.Signatures = []string{signature}
	}
	storetest.Add(t, c, objects...)
	return objects, cache, sign.NewKeys(k.Public())
}

// buy copies everything to a new cache, and looks at what is there afterwards: all of an
// object or nothing.
func buy(t *testing.T, from *Cache, objects []storetest.Object, trusted sign.Keys) error {
	t.Helper()
	to, _ := create(t, Options{Compression: "none", Trusted: trusted})
	ctx, cancel := context.WithTimeoutCause(t.Context(), 30*time.Second, errors.New("it takes too long"))
	defer cancel()
	top := objects[len(objects)-1].Info.Path
	err := store.CopyClosure(ctx, from, to, []nix.StorePath{top}, store.CopyOptions{CheckSignatures: true})
	if ctx.Err() != nil {
		t.Error(context.Cause(ctx))
	}
	whole(t, to, objects, err)
	return err
}

// whole looks at what is in a cache after copying ended with an error, or nil: all of an
// object or nothing.
func whole(t *testing.T, c *Cache, objects []storetest.Object, copied error) {
	t.Helper()
	clear(c.known)
	for _, o := range objects {
		if _, err := c.PathInfo(t.Context(), o.Info.Path); err == nil {
			storetest.Check(t, c, o)
		} else if copied == nil || !errors.Is(err, store.ErrNotFound) {
			t.Errorf("'%s' is not there: %v", o.Info.Path, err)
		}
	}
}

// TestFaultyLine reads from a cache behind a line that cuts, delays, corrupts, loses and
// repeats, at random places with fixed seeds. With KILN_FAULT_RUNS=200 it does so more
// often.
func TestFaultyLine(t *testing.T) {
	t.Parallel()
	log.SetOutput(io.Discard) // net/http tells of answers that nobody asked for
	t.Cleanup(func() { log.SetOutput(os.Stderr) })
	objects, cache, trusted := fair(t)
	server := httptest.NewServer(http.FileServer(http.Dir(cache)))
	defer server.Close()
	good := 0
	for seed := range storetest.FaultRuns(16) {
		l := newLine(t, server.Listener.Addr().String(), storetest.NewFaults(60_000, 1, uint64(seed)), false)
		from, err := OpenHTTP(t.Context(), "http://"+l.Addr().String(), Options{}, HTTPOptions{Attempts: 4, Delay: time.Millisecond, Stalled: 100 * time.Millisecond})
		if err == nil {
			if err = buy(t, from, objects, trusted); err == nil {
				good++
			}
			from.Close()
		}
		l.end()
		if t.Failed() {
			t.Fatalf("with seed %d: %v", seed, err)
		}
	}
	if good == 0 {
		t.Error("not once everything came")
	}
}

// TestFaultyFiles reads from a directory in which a file is not what it should be.
func TestFaultyFiles(t *testing.T) {
	t.Parallel()
	objects, cache, trusted := fair(t)
	var names []string
	filepath.WalkDir(cache, func(path string, d fs.DirEntry, err error) error {
		if err == nil && d.Type().IsRegular() {
			names = append(names, strings.TrimPrefix(path, cache+"/"))
		}
		return err
	})
	for seed := range storetest.FaultRuns(16) {
		r := rand.New(rand.NewPCG(2, uint64(seed)))
		name := filepath.Join(cache, names[r.IntN(len(names))])
		whole, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		at := r.IntN(len(whole))
		bad := bytes.Clone(whole)
		switch r.IntN(4) {
		case 0:
			bad = bad[:at]
		case 1:
			bad[at] ^= 1 << r.IntN(8)
		case 2:
			bad = append(bad, whole[:at]...)
		case 3:
			bad = append(bad[:at], whole[min(at+7, len(whole)):]...)
		}
		if err := os.WriteFile(name, bad, 0o644); err != nil {
			t.Fatal(err)
		}
		from, err := OpenDirectory(t.Context(), cache, Options{})
		if err == nil {
			err = buy(t, from, objects, trusted)
		}
		if t.Failed() {
			t.Fatalf("with seed %d, in %s: %v", seed, name, err)
		}
		if err := os.WriteFile(name, whole, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

// TestFaultyBucket reads from a bucket behind such a line, and writes to one.
func TestFaultyBucket(t *testing.T) {
	log.SetOutput(io.Discard)
	t.Cleanup(func() { log.SetOutput(os.Stderr) })
	objects, cache, trusted := fair(t)
	plain, err := OpenDirectory(t.Context(), cache, Options{})
	if err != nil {
		t.Fatal(err)
	}
	top := []nix.StorePath{objects[len(objects)-1].Info.Path}
	source, target := &buckets{}, &buckets{}
	openSource, openTarget := serveS3(t, source), serveS3(t, target)
	filled, err := openSource("", "&compression=zstd")
	if err == nil {
		err = store.CopyClosure(t.Context(), plain, filled, top, store.CopyOptions{})
	}
	if err != nil {
		t.Fatal(err)
	}
	read, written := 0, 0
	for seed := range 2 * storetest.FaultRuns(8) {
		clear(target.objects)
		direct, err := openTarget("", "")
		if err != nil {
			t.Fatal(err)
		}
		s, open, reads := target, openTarget, seed%2 == 0
		if reads {
			s, open = source, openSource
		}
		l := newLine(t, s.address, storetest.NewFaults(60_000, 3, uint64(seed)), !reads)
		far, err := open(l.Addr().String(), "&compression=none")
		switch {
		case err != nil:
		case reads:
			if err = buy(t, far, objects, trusted); err == nil {
				read++
			}
		default:
			ctx, cancel := context.WithTimeoutCause(t.Context(), 30*time.Second, errors.New("it takes too long"))
			if err = store.CopyClosure(ctx, plain, far, top, store.CopyOptions{}); err == nil {
				written++
			}
			if ctx.Err() != nil {
				t.Error(context.Cause(ctx))
			}
			cancel()
			whole(t, direct, objects, err)
		}
		if far != nil {
			far.Close()
		}
		l.end()
		if t.Failed() {
			t.Fatalf("with seed %d: %v", seed, err)
		}
	}
	if read == 0 || written == 0 {
		t.Errorf("everything was read %d times and written %d times", read, written)
	}
}
