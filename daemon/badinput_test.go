package daemon

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/store/storetest"
	"github.com/kilnbuild/kiln/wire/worker"
)

// sessions are what real clients have said, by name.
func sessions(t testing.TB) map[string][]byte {
	t.Helper()
	files, err := filepath.Glob("../wire/worker/testdata/sessions/*.client")
	if err != nil || len(files) < 20 {
		t.Fatalf("%d sessions, %v", len(files), err)
	}
	all := make(map[string][]byte)
	for _, file := range files {
		if all[filepath.Base(file)], err = os.ReadFile(file); err != nil {
			t.Fatal(err)
		}
	}
	return all
}

// everyCut has TestCutAnywhere cut all sessions at every byte, which takes half a minute.
const everyCut = "KILN_EVERY_CUT"

// TestCutAnywhere has real clients leave in the middle of what they say: after every byte of
// the longest one, and after some of the others.
func TestCutAnywhere(t *testing.T) {
	t.Parallel()
	dep := storetest.Text(t, nix.DefaultStoreDir, "dep", "dependency")
	text := storetest.Text(t, nix.DefaultStoreDir, "text", "refers to "+nix.DefaultStoreDir.Join(dep.Info.Path), dep.Info.Path)
	for name, said := range sessions(t) {
		s := newStore(t, dep, text)
		newDerivation(t, s, "works")
		newDerivation(t, s, "fails")
		cfg := Config{Store: s, Builder: builderOf(t, s), Trust: worker.Trusted}
		step := 1
		if len(said) < 1660 && os.Getenv(everyCut) == "" {
			step = 23
		}
		for n := 0; n <= len(said); n = min(n+step, max(n+1, len(said))) {
			err := Serve(t.Context(), stream{bytes.NewReader(said[:n]), io.Discard}, cfg)
			if n == len(said) && err != nil {
				t.Errorf("%s: all of it: %v", name, err)
			}
			if n < 16 && err == nil {
				t.Errorf("%s: %d bytes are a whole session", name, n)
			}
		}
	}
}

// TestNonsense has clients say what means nothing, or would take more than there is. It
// costs them their connection, or an error, and nobody else anything.
func TestNonsense(t *testing.T) {
	t.Parallel()
	words := func(list ...any) []byte {
		var b []byte
		for _, w := range list {
			switch w := w.(type) {
			case int:
				b = binary.LittleEndian.AppendUint64(b, uint64(w))
			case uint64:
				b = binary.LittleEndian.AppendUint64(b, w)
			case string:
				b = append(binary.LittleEndian.AppendUint64(b, uint64(len(w))), w...)
				b = append(b, make([]byte, -len(w)&7)...)
			case []byte:
				b = append(b, w...)
			}
		}
		return b
	}
	const huge = uint64(1) << 62
	path := nix.DefaultStoreDir.Join(none)
	s := newStore(t)
	good := connect(t, t.Context(), Config{Store: s}, worker.Newest)
	for name, said := range map[string][]byte{
		"unknown operation":    words(9999),
		"operation of 64 bits": words(huge),
		"huge path":            words(int(worker.OpIsValidPath), huge),
		"path of 64 KiB":       words(int(worker.OpIsValidPath), strings.Repeat("x", 64<<10)),
		"not a path":           words(int(worker.OpIsValidPath), "x"),
		"other store":          words(int(worker.OpIsValidPath), "/other/store/"+string(none)),
		"path above":           words(int(worker.OpIsValidPath), path+"/../../etc"),
		"padding":              words(int(worker.OpIsValidPath), 1, []byte("/\x00\x00\x00\x00\x00\x00\x01")),
		"many paths":           words(int(worker.OpQueryValidPaths), huge),
		"a million paths":      words(int(worker.OpQueryValidPaths), 1<<20, path),
		"many options":         words(int(worker.OpSetOptions), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, huge),
		"huge value":           words(int(worker.OpSetOptions), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, "name", huge),
		"huge frame":           words(int(worker.OpAddToStore), "x", "fixed:r:sha256", 0, 0, huge),
		"method":               words(int(worker.OpAddToStore), "x", "fixed:nonsense", 0, 0, 0),
		"name":                 words(int(worker.OpAddToStore), "../x", "fixed:r:sha256", 0, 0, 0),
		"huge derivation":      words(int(worker.OpBuildDerivation), path+".drv", huge),
		"mode":                 words(int(worker.OpBuildPaths), 0, 77),
		"huge size":            words(int(worker.OpAddToStoreNar), path, "", strings.Repeat("0", 64), 0, 0, ^uint64(0), 0, 0, "", 0, 0),
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		p := connect(t, t.Context(), Config{Store: s}, worker.Newest)
		p.e.Write(said)
		p.e.Flush()
		p.conn.(*net.UnixConn).CloseWrite()
		if err := p.messages(); err == nil {
			t.Errorf("%s: it was carried out", name)
		}
		<-p.ended
		runtime.ReadMemStats(&after)
		if n := after.TotalAlloc - before.TotalAlloc; n > 32<<20 {
			t.Errorf("%s: %d bytes were allocated for it", name, n)
		}
		good.usable()
	}
	for name, said := range map[string][]byte{
		"magic":          words(0x6e697864, 0x126),
		"no magic":       []byte("GET / HTTP/1.1\r\n\r\n"),
		"version 2":      words(0x6e697863, 2<<8|1),
		"ancient":        words(0x6e697863, 1<<8|3),
		"many features":  words(0x6e697863, 0x126, huge),
		"huge feature":   words(0x6e697863, 0x126, 1, huge),
		"nothing at all": nil,
	} {
		server, client := pair(t)
		ended := make(chan error, 1)
		go func() { ended <- Serve(t.Context(), server, Config{Store: s}) }()
		client.Write(said)
		client.(*net.UnixConn).CloseWrite()
		if err := <-ended; err == nil {
			t.Errorf("%s: it is no error", name)
		}
		good.usable()
	}
	good.bye()
}

// TestIdle has hundreds of clients be connected and say nothing. They keep nobody waiting,
// and take little.
func TestIdle(t *testing.T) {
	const clients = 500
	s := newStore(t)
	memory := func() int64 {
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapInuse + m.StackInuse)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	before := memory()
	for range clients {
		server, client := net.Pipe()
		all.Go(func() {
			if err := Serve(ctx, server, Config{Store: s}); !errors.Is(err, context.Canceled) {
				t.Error(err)
			}
		})
		all.Go(func() { io.Copy(io.Discard, client) })
		p := &greeting{client}
		p.say(t)
	}
	if each := (memory() - before) / clients; each > 150_000 {
		t.Errorf("each of %d takes %d bytes", clients, each)
	}
	begin := time.Now()
	p := connect(t, t.Context(), Config{Store: s}, worker.Newest)
	for range 100 {
		p.usable()
	}
	if took := time.Since(begin); took > 10*time.Second {
		t.Errorf("somebody else waited for %v", took)
	}
	p.bye()
	cancel()
	all.Wait()
}

// greeting is a client that says what it speaks, and then nothing.
type greeting struct{ conn net.Conn }

func (g *greeting) say(t *testing.T) {
	t.Helper()
	var b []byte
	for _, n := range []uint64{0x6e697863, 0x125, 0, 0} {
		b = binary.LittleEndian.AppendUint64(b, n)
	}
	if _, err := g.conn.Write(b); err != nil {
		t.Fatal(err)
	}
}
