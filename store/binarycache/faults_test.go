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
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/sign"
	"github.com/kilnbuild/kiln/store"
	"github.com/kilnbuild/kiln/store/storetest"
)

// faultRuns is how often each kind of cache is read with faults: KILN_FAULT_RUNS, or a
// few times.
func faultRuns() int {
	if n, err := strconv.Atoi(os.Getenv("KILN_FAULT_RUNS")); err == nil {
		return n
	}
	return 16
}

// A line carries what a server says, and spoils it.
type line struct {
	net.Listener
	server string
	faults sync.WaitGroup

	mu   sync.Mutex
	rand *rand.Rand
}

// carry carries until the line is closed.
func (l *line) carry() {
	for {
		client, err := l.Accept()
		if err != nil {
			return
		}
		l.faults.Go(func() {
			defer client.Close()
			server, err := net.Dial("tcp", l.server)
			if err != nil {
				return
			}
			defer server.Close()
			asked := make(chan struct{})
			go func() {
				defer close(asked)
				io.Copy(server, client)
				server.(*net.TCPConn).CloseWrite()
			}()
			l.spoil(client, server)
			client.Close()
			<-asked
		})
	}
}

// spoil copies up to a place, and then does something else.
func (l *line) spoil(client io.Writer, server io.Reader) {
	l.mu.Lock()
	at, what := l.rand.Int64N(60_000), l.rand.IntN(6)
	l.mu.Unlock()
	if _, err := io.CopyN(client, server, at); err != nil {
		return
	}
	switch what {
	case 0: // it is cut
		return
	case 1: // it stands still
		time.Sleep(150 * time.Millisecond)
	case 2: // a bit is another one
		var b [1]byte
		if _, err := io.ReadFull(server, b[:]); err != nil {
			return
		}
		b[0] ^= 1 << (at % 8)
		client.Write(b[:])
	case 3: // something is missing
		io.CopyN(io.Discard, server, 10)
	case 4: // something is there twice
		var b [10]byte
		n, _ := io.ReadFull(server, b[:])
		client.Write(b[:n])
		client.Write(b[:n])
	}
	io.Copy(client, server)
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
	clear(to.known)
	for _, o := range objects {
		if _, ierr := to.PathInfo(t.Context(), o.Info.Path); ierr == nil {
			storetest.Check(t, to, o)
		} else if err == nil || !errors.Is(ierr, store.ErrNotFound) {
			t.Errorf("'%s' is not there: %v", o.Info.Path, ierr)
		}
	}
	return err
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
	for seed := range faultRuns() {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		l := &line{Listener: listener, server: server.Listener.Addr().String(), rand: rand.New(rand.NewPCG(1, uint64(seed)))}
		l.faults.Go(l.carry)
		from, err := OpenHTTP(t.Context(), "http://"+listener.Addr().String(), Options{}, HTTPOptions{Attempts: 4, Delay: time.Millisecond, Stalled: 100 * time.Millisecond})
		if err == nil {
			if err = buy(t, from, objects, trusted); err == nil {
				good++
			}
			from.Close()
		}
		listener.Close()
		l.faults.Wait()
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
	for seed := range faultRuns() {
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
