package recursive

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/aterm"
	"github.com/kilnbuild/kiln/nix/nar"
	"github.com/kilnbuild/kiln/store"
	"github.com/kilnbuild/kiln/store/storetest"
	"github.com/kilnbuild/kiln/wire"
	"github.com/kilnbuild/kiln/wire/worker"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const dir = nix.DefaultStoreDir

// backing is a store in memory that can do what a Server asks for.
type backing struct{ *storetest.Memory }

func (b backing) PathInfos(ctx context.Context, paths []nix.StorePath) ([]*nix.PathInfo, error) {
	var infos []*nix.PathInfo
	for _, p := range paths {
		info, err := b.PathInfo(ctx, p)
		if err != nil {
			return nil, err
		}
		infos = append(infos, info)
	}
	return infos, nil
}

// AddContent adds files, and archives by SHA-256.
func (b backing) AddContent(ctx context.Context, name string, method nix.ContentAddressMethod, algo nix.HashAlgorithm, references []nix.StorePath, content io.Reader) (*nix.PathInfo, error) {
	data, err := io.ReadAll(content)
	if err != nil {
		return nil, err
	}
	ca := nix.ContentAddress{Method: method, Hash: nix.HashBytes(algo, data)}
	if method != nix.Recursive {
		var archive bytes.Buffer
		w := nar.NewWriter(&archive, nar.Limits{})
		if err := w.WriteHeader(nar.Header{Type: nar.Regular, Size: int64(len(data))}); err != nil {
			return nil, err
		}
		if _, err := w.Write(data); err != nil {
			return nil, err
		}
		if err := w.Close(); err != nil {
			return nil, err
		}
		data = archive.Bytes()
	}
	p, err := nix.MakeContentAddressedPath(dir, name, ca, nix.References{Others: references})
	if err != nil {
		return nil, err
	}
	info := &nix.PathInfo{Path: p, NARHash: nix.HashBytes(nix.SHA256, data), NARSize: int64(len(data)), References: references, CA: ca}
	return info, b.Add(ctx, info, bytes.NewReader(data), store.AddOptions{})
}

func (b backing) Derivation(ctx context.Context, p nix.StorePath) (*nix.Derivation, error) {
	var archive bytes.Buffer
	if err := b.NAR(ctx, p, &archive); err != nil {
		return nil, err
	}
	r := nar.NewReader(&archive, nar.Limits{})
	if _, err := r.Next(); err != nil {
		return nil, err
	}
	text, err := io.ReadAll(r)
	if err != nil {
		return nil, err
	}
	return aterm.Parse(dir, strings.TrimSuffix(p.Name(), nix.DrvExtension), text, aterm.Limits{})
}

func (b backing) DerivationOutputs(ctx context.Context, p nix.StorePath) (map[nix.OutputName]nix.StorePath, error) {
	drv, err := b.Derivation(ctx, p)
	if err != nil {
		return nil, err
	}
	known := make(map[nix.OutputName]nix.StorePath)
	for name, o := range drv.Outputs {
		if o.Path != "" {
			known[name] = o.Path
		}
	}
	return known, nil
}

// buildFunc is a builder.
type buildFunc func(ctx context.Context, req *nix.BuildRequest) ([]nix.BuildResult, error)

func (f buildFunc) Build(ctx context.Context, req *nix.BuildRequest) ([]nix.BuildResult, error) {
	return f(ctx, req)
}

// A scene is a server with what is around it.
type scene struct {
	t       *testing.T
	store   backing
	cfg     Config
	server  *Server
	address string

	mu      sync.Mutex
	shown   []nix.StorePath
	failed  []error
	events  []nix.Event
	printed strings.Builder
}

// BuildLog implements nix.LogSink.
func (s *scene) BuildLog(_ nix.StorePath, p []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.printed.Write(p)
}

// Event implements nix.LogSink.
func (s *scene) Event(e nix.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.events = append(s.events, e)
}

// notices are what the outer build's log got.
func (s *scene) notices() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var text strings.Builder
	for _, e := range s.events {
		if e.Kind == nix.EventNotice && e.Path == s.cfg.Drv {
			text.WriteString(e.Message + "\n")
		}
	}
	return text.String()
}

func (s *scene) failures() []error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.failed)
}

func (s *scene) visible(p nix.StorePath) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Contains(s.shown, p)
}

// newScene makes a server whose builder has those inputs and gives it nothing to
// build; change may change that.
func newScene(t *testing.T, objects []storetest.Object, inputs []nix.StorePath, change func(*scene)) *scene {
	t.Helper()
	s := &scene{t: t, store: backing{storetest.NewMemory(dir)}}
	for i := range objects {
		s.add(objects[i])
	}
	s.cfg = Config{
		Dir: dir, Store: s.store, Drv: "00000000000000000000000000000000-outer.drv", Inputs: inputs, Log: s, Network: nix.NetworkOff,
		Builder: buildFunc(func(context.Context, *nix.BuildRequest) ([]nix.BuildResult, error) {
			return nil, errors.New("nothing was to be built")
		}),
		Show: func(_ context.Context, paths []nix.StorePath) error {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.shown = append(s.shown, paths...)
			return nil
		},
		Fail: func(err error) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.failed = append(s.failed, err)
		},
	}
	if change != nil {
		change(s)
	}
	listener, err := net.Listen("unix", filepath.Join(t.TempDir(), "socket"))
	if err != nil {
		t.Fatal(err)
	}
	s.address = listener.Addr().String()
	s.server = Serve(t.Context(), listener, s.cfg)
	t.Cleanup(func() {
		listener.Close()
		s.server.Close()
	})
	return s
}

func (s *scene) add(o storetest.Object) {
	s.t.Helper()
	if err := s.store.Add(s.t.Context(), &o.Info, bytes.NewReader(o.NAR), store.AddOptions{}); err != nil {
		s.t.Fatal(err)
	}
}

// A client is what a builder runs.
type client struct {
	t    *testing.T
	conn net.Conn
	d    *worker.Decoder
	e    *worker.Encoder
	said strings.Builder // messages
}

func (s *scene) connect() *client {
	s.t.Helper()
	conn, err := net.Dial("unix", s.address)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { conn.Close() })
	c := &client{t: s.t, conn: conn}
	protocol := worker.Protocol{Dir: dir}
	c.d = &worker.Decoder{Reader: wire.NewReader(conn, wire.Limits{}), Protocol: protocol}
	c.e = &worker.Encoder{Writer: wire.NewWriter(conn), Protocol: protocol}
	server, err := worker.Handshake(c.d, c.e, worker.Newest, worker.Features())
	if err == nil {
		err = c.messages()
	}
	if err != nil {
		s.t.Fatal(err)
	}
	if server.Trust != worker.NotTrusted {
		s.t.Errorf("the builder is told that its trust is %v", server.Trust)
	}
	return c
}

func (c *client) messages() error {
	return worker.ReadMessages(c.d, c.e, worker.Listener{Next: func(text string) { c.said.WriteString(text) }})
}

// ask sends a request, with its body, and reads what comes before the reply.
func (c *client) ask(r worker.Request, body ...func(io.Writer)) error {
	worker.WriteRequest(c.e, r)
	for _, write := range body {
		w := wire.NewFramedWriter(c.e.Writer)
		write(w)
		w.Close()
	}
	if err := c.e.Flush(); err != nil {
		return err
	}
	return c.messages()
}

// must is ask for what has to work.
func (c *client) must(r worker.Request, body ...func(io.Writer)) {
	c.t.Helper()
	if err := c.ask(r, body...); err != nil {
		c.t.Fatalf("%v: %v", r.Op(), err)
	}
}

// refused is ask for what has to be refused, with that message.
func (c *client) refused(want string, r worker.Request, body ...func(io.Writer)) {
	c.t.Helper()
	err := c.ask(r, body...)
	var failure *worker.Error
	if !errors.As(err, &failure) || !strings.Contains(failure.Message, want) {
		c.t.Errorf("%v: %v, want an error with %q", r.Op(), err, want)
	}
}

func (c *client) isValid(p nix.StorePath) bool {
	c.t.Helper()
	c.must(&worker.PathRequest{Operation: worker.OpIsValidPath, Path: p})
	return c.bool()
}

func (c *client) bool() bool {
	c.t.Helper()
	b := c.d.Bool()
	c.read()
	return b
}

func (c *client) pathSet() []nix.StorePath {
	c.t.Helper()
	list := c.d.PathSet()
	c.read()
	return list
}

// read checks that a reply could be read.
func (c *client) read() {
	c.t.Helper()
	if err := c.d.Err(); err != nil {
		c.t.Fatalf("reply: %v", err)
	}
}

func sends(data []byte) func(io.Writer) { return func(w io.Writer) { w.Write(data) } }

// derivation is a derivation as an object, with the path of its output, if that is
// known.
func derivation(t *testing.T, name string, fixed bool, inputs ...nix.StorePath) (storetest.Object, nix.StorePath) {
	t.Helper()
	out, err := nix.MakeStorePath(dir, "output:out", nix.HashBytes(nix.SHA256, []byte(name)), name)
	if err != nil {
		t.Fatal(err)
	}
	output := nix.DerivationOutput{Kind: nix.InputAddressed, Path: out}
	if fixed {
		hash := nix.HashBytes(nix.SHA256, []byte(name))
		if out, err = nix.MakeContentAddressedPath(dir, name, nix.ContentAddress{Method: nix.Flat, Hash: hash}, nix.References{}); err != nil {
			t.Fatal(err)
		}
		output = nix.DerivationOutput{Kind: nix.Fixed, Path: out, Method: nix.Flat, Algorithm: nix.SHA256, Hash: hash}
	}
	drv := &nix.Derivation{BasicDerivation: nix.BasicDerivation{
		Name: name, Outputs: map[nix.OutputName]nix.DerivationOutput{"out": output}, System: "any", Builder: "/bin/sh",
		Env: map[string]string{"out": dir.Join(out)},
	}, InputDrvs: map[nix.StorePath]nix.InputOutputs{}}
	for _, in := range inputs {
		drv.InputDrvs[in] = nix.InputOutputs{Outputs: []nix.OutputName{"out"}}
	}
	p, references, text, err := aterm.DerivationPath(dir, drv)
	if err != nil {
		t.Fatal(err)
	}
	o := storetest.Text(t, dir, p.Name(), string(text), references...)
	if o.Info.Path != p {
		t.Fatalf("the derivation is %s, and as a text %s", p, o.Info.Path)
	}
	return o, out
}

// built is the result of a build of all outputs of a derivation.
func built(drv, out nix.StorePath) nix.BuildResult {
	return nix.BuildResult{Path: nix.Built(drv, nix.AllOutputs), Status: nix.StatusBuilt, TimesBuilt: 1,
		Outputs: map[nix.OutputName]nix.Realisation{"out": {ID: nix.DrvOutput{Drv: drv, Output: "out"}, OutPath: out}}}
}

// named are the names of paths without their hashes, sorted.
func named(paths []nix.StorePath) string {
	names := map[string]bool{}
	for _, p := range paths {
		names[p.Name()] = true
	}
	return fmt.Sprint(slices.Sorted(maps.Keys(names)))
}

func (b backing) LegacyRealisationID(_ context.Context, id nix.DrvOutput) (string, error) {
	return "sha256:" + string(id.Drv) + "!" + string(id.Output), nil
}
