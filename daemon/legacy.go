package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/aterm"
	"github.com/kilnbuild/kiln/store"
	"github.com/kilnbuild/kiln/store/export"
	"github.com/kilnbuild/kiln/wire/serve"
)

// LegacyConfig is what a client of the serve protocol is given. It is believed whatever
// it says: who it is was asked before, by ssh.
type LegacyConfig struct {
	// Store is as in Config.
	Store store.Store
	// Builder substitutes objects, and builds if there are no BuildOptions. If it is
	// nil, nothing is built.
	Builder nix.Builder
	// Write lets the client add objects, and build.
	Write bool
	// BuildOptions, if set, gives what builds by the client's settings.
	BuildOptions func(ctx context.Context, o *serve.BuildOptions) (nix.Builder, error)
	// Log takes what builders print and what else a person should know, in whole lines:
	// the protocol has no place for it. It may be nil.
	Log io.Writer
	// Version is the newest version to speak; 0 stands for serve.Newest.
	Version serve.Version
	// TempDir and Limits are as in Config; of the limits Wire and Dump count.
	TempDir string
	Limits  Limits
}

// ServeLegacy speaks the serve protocol to one client until that closes the connection,
// which is no error, or ctx ends, or something fails: there is no way to go on after an
// error, which whoever calls it prints for the client to see. It closes conn, which must
// unblock its Read and Write, and returns when all its goroutines have ended. What ctx
// has as its cause is then the error.
func ServeLegacy(ctx context.Context, conn io.ReadWriteCloser, cfg LegacyConfig) error {
	if cfg.Version == 0 {
		cfg.Version = serve.Newest
	}
	return closing(ctx, conn, func() error { return serveLegacy(ctx, conn, cfg) })
}

// A legacy is one connection. Of the session it has what does not depend on how clients
// are spoken to.
type legacy struct {
	session
	cfg LegacyConfig
	in  *serve.Decoder
	out *serve.Encoder
}

func serveLegacy(ctx context.Context, conn io.ReadWriteCloser, cfg LegacyConfig) error {
	dir := cfg.Store.Dir()
	l := &legacy{cfg: cfg, in: serve.NewDecoder(conn, dir, cfg.Limits.Wire), out: serve.NewEncoder(conn, dir)}
	l.store, l.builder, l.dir, l.d = cfg.Store, cfg.Builder, dir, l.in.Decoder
	l.hasher = aterm.NewHasher(dir, l.derivation, aterm.HasherOptions{})
	log := &plainLog{w: cfg.Log, lines: make(map[nix.StorePath][]byte)}
	l.newLog = func(*nix.BuildRequest) requestLog { return log }
	if err := serve.AcceptHandshake(l.in, l.out, cfg.Version); err != nil {
		return err
	}
	wait, interrupt := l.d.Wait, interruption(conn)
	if interrupt != nil {
		wait = l.d.WaitEnd
	}
	l.watcher = newWatcher(wait, interrupt)
	defer func() {
		conn.Close() // unblocks it
		l.watcher.stop()
	}()
	for {
		if err := l.in.Wait(); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		if err := l.command(ctx); err != nil {
			return err
		}
	}
}

// command reads one command and carries it out.
func (l *legacy) command(all context.Context) error {
	req, err := serve.ReadRequest(l.in)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(all)
	defer cancel(nil)
	switch r := req.(type) {
	case *serve.AddToStoreNar:
		err = l.addToStoreNar(ctx, r)
	case *serve.ImportPaths:
		err = l.importPaths(ctx)
	default:
		// That may be because everything ends, of which ctx need not know yet.
		l.watcher.begin(func() { cancel(cmp.Or(context.Cause(all), ErrClientGone)) })
		defer l.watcher.end()
		err = l.carryOut(ctx, req)
	}
	if err != nil {
		return err
	}
	return l.out.Flush()
}

// carryOut does what a command without a body asks for, and replies.
func (l *legacy) carryOut(ctx context.Context, req serve.Request) error {
	switch r := req.(type) {
	case *serve.QueryValidPaths:
		return l.queryValidPaths(ctx, r)
	case *serve.QueryPathInfos:
		return l.queryPathInfos(ctx, r)
	case *serve.DumpStorePath:
		return l.store.NAR(ctx, r.Path, l.out)
	case *serve.ExportPaths:
		return export.Write(ctx, l.store, r.Paths, l.out)
	case *serve.QueryClosure:
		return l.queryClosure(ctx, r)
	case *serve.BuildPaths:
		return l.buildPaths(ctx, r)
	case *serve.BuildDerivation:
		return l.buildDerivation(ctx, r)
	}
	return fmt.Errorf("%v is not supported", req.Command())
}

func (l *legacy) queryValidPaths(ctx context.Context, r *serve.QueryValidPaths) error {
	if st, ok := l.store.(store.TempRooter); ok && r.Lock && l.cfg.Write {
		if err := st.AddTempRoot(ctx, r.Paths...); err != nil {
			return err
		}
	}
	valid, err := l.validPaths(ctx, r.Paths)
	if err != nil {
		return err
	}
	if r.Substitute && l.cfg.Write && len(valid) < len(r.Paths) {
		there := withoutAddresses(valid)
		l.substitute(ctx, slices.DeleteFunc(slices.Clone(r.Paths), func(p nix.StorePath) bool {
			_, ok := there[p]
			return ok || p.IsDerivation()
		}))
		if valid, err = l.validPaths(ctx, r.Paths); err != nil {
			return err
		}
	}
	l.out.PathSet(valid)
	return nil
}

func (l *legacy) queryPathInfos(ctx context.Context, r *serve.QueryPathInfos) error {
	for _, p := range r.Paths {
		info, err := l.store.PathInfo(ctx, p)
		if errors.Is(err, store.ErrNotFound) {
			continue
		}
		if err != nil {
			return err
		}
		l.out.Info(info)
	}
	l.out.EndInfos()
	return nil
}

func (l *legacy) queryClosure(ctx context.Context, r *serve.QueryClosure) error {
	all, err := store.Closure(ctx, l.store, r.Paths...)
	for begun := 0; err == nil && r.IncludeOutputs; {
		// Outputs may lead to further derivations.
		var outputs []nix.StorePath
		for _, p := range all {
			if p.IsDerivation() {
				if outputs, err = l.validOutputs(ctx, p, outputs); err != nil {
					return err
				}
			}
		}
		if len(all) == begun {
			break
		}
		begun = len(all)
		all, err = store.Closure(ctx, l.store, append(all, outputs...)...)
	}
	if err != nil {
		return err
	}
	l.out.PathSet(all)
	return nil
}

// validOutputs adds to a list those outputs of a derivation that are valid.
func (l *legacy) validOutputs(ctx context.Context, p nix.StorePath, list []nix.StorePath) ([]nix.StorePath, error) {
	drv, err := l.derivation(ctx, p)
	if err != nil {
		return nil, err
	}
	outputs, err := l.outputs(ctx, p, drv)
	if err != nil {
		return nil, err
	}
	var known []nix.StorePath
	for _, out := range outputs {
		if out != "" {
			known = append(known, out)
		}
	}
	valid, err := l.validPaths(ctx, known)
	return append(list, valid...), err
}

// errMayNot says what clients may not do that are to read only.
func errMayNot(what string) error { return fmt.Errorf("%s is not allowed", what) }

// addToStoreNar adds an object while it comes.
func (l *legacy) addToStoreNar(ctx context.Context, r *serve.AddToStoreNar) error {
	if !l.cfg.Write {
		return errMayNot("importing paths")
	}
	archive := &io.LimitedReader{R: l.in, N: r.Info.NARSize}
	if err := l.store.Add(ctx, r.Info, archive, store.AddOptions{}); err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, archive); err != nil {
		return err
	}
	l.out.Uint64(1)
	return nil
}

func (l *legacy) importPaths(ctx context.Context) error {
	if !l.cfg.Write {
		return errMayNot("importing paths")
	}
	_, err := export.Read(ctx, l.in.Decoder, l.store, export.Options{TempDir: l.cfg.TempDir, Limit: l.cfg.Limits.Dump})
	l.out.Uint64(1)
	return err
}

// prepare gets what builds by the client's settings.
func (l *legacy) prepare(ctx context.Context, o *serve.BuildOptions) (err error) {
	switch {
	case !l.cfg.Write:
		return errMayNot("building paths")
	case o.Repeats > 0:
		return errors.New("client requested repeating builds, but this is not currently implemented")
	case l.cfg.BuildOptions != nil:
		l.builder, err = l.cfg.BuildOptions(ctx, o)
	}
	return err
}

func (l *legacy) buildPaths(ctx context.Context, r *serve.BuildPaths) error {
	if err := l.prepare(ctx, &r.Options); err != nil {
		return err
	}
	results, err := l.run(ctx, &nix.BuildRequest{Paths: r.Paths})
	if err == nil {
		err = l.failure(results)
	}
	if cause := context.Cause(ctx); err != nil && cause != nil {
		return cause
	}
	var reply serve.BuildStatus
	if err != nil {
		told := clientError(err)
		reply = serve.BuildStatus{Exit: max(told.Status, 1), Message: redError + told.Message}
	}
	l.out.BuildStatus(reply)
	return nil
}

func (l *legacy) buildDerivation(ctx context.Context, r *serve.BuildDerivation) error {
	if err := l.prepare(ctx, &r.Options); err != nil {
		return err
	}
	results, err := l.run(ctx, &nix.BuildRequest{
		Paths: []nix.DerivedPath{nix.Built(r.Drv, nix.AllOutputs)},
		Basic: map[nix.StorePath]*nix.BasicDerivation{r.Drv: r.Basic},
	})
	if cause := context.Cause(ctx); err != nil && cause != nil {
		return cause
	}
	if err != nil {
		// The protocol has results and no errors.
		results = []nix.BuildResult{{Status: nix.StatusMiscFailure, Message: err.Error()}}
	}
	ids := l.legacyIDs(ctx, results, r.Basic)
	legacyIDs(l.out.Encoder, ids)
	l.out.BuildResult(&results[0])
	return nil
}

// A plainLog writes what there is to tell as lines. Those of builds that run side by side
// do not get mixed up.
type plainLog struct {
	w io.Writer // nil for nobody who reads it

	mu    sync.Mutex
	lines map[nix.StorePath][]byte // begun and not ended
}

// BuildLog implements nix.LogSink.
func (p *plainLog) BuildLog(drv nix.StorePath, text []byte) {
	if p.w == nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	line := append(p.lines[drv], text...)
	end := 0
	for i, c := range line {
		if c == '\n' {
			end = i + 1
		}
	}
	if len(line)-end > maxLine {
		end = len(line)
	}
	if end > 0 {
		p.w.Write(line[:end])
	}
	if p.lines[drv] = append(line[:0], line[end:]...); end == len(line) {
		delete(p.lines, drv)
	}
}

// Event implements nix.LogSink.
func (p *plainLog) Event(e nix.Event) {
	switch e.Kind {
	case nix.EventFinished:
		p.mu.Lock()
		defer p.mu.Unlock()
		p.end(e.Path)
	case nix.EventWarning:
		p.say("warning: " + e.Message)
	case nix.EventNotice:
		p.say(e.Message)
	}
}

// end writes a line that was begun.
func (p *plainLog) end(drv nix.StorePath) {
	if line := p.lines[drv]; len(line) > 0 {
		p.w.Write(append(line, '\n'))
	}
	delete(p.lines, drv)
}

func (p *plainLog) say(text string) {
	if p.w != nil {
		p.mu.Lock()
		defer p.mu.Unlock()
		fmt.Fprintf(p.w, "%s\n", text)
	}
}

// failure implements requestLog.
func (p *plainLog) failure(message string) { p.say("error: " + message) }

// close implements requestLog.
func (p *plainLog) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for drv := range p.lines {
		p.end(drv)
	}
}
