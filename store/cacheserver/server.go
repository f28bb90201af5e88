package cacheserver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/sign"
	"github.com/kilnbuild/kiln/store"
)

// A Store is one that can be served.
type Store interface {
	store.Source
	store.LogStore
	store.RealisationStore
	Dir() nix.StoreDir
	// PathFromHashPart gives an error that wraps store.ErrNotFound if there is none.
	PathFromHashPart(ctx context.Context, hashPart string) (nix.StorePath, error)
	// LegacyRealisation is Realisation for an output that is named as before Nix 2.35,
	// by the hash of its derivation.
	LegacyRealisation(ctx context.Context, hash string, output nix.OutputName) (*nix.Realisation, error)
}

// Options are the choices for a server. A field that is zero stands for what is said
// there.
type Options struct {
	// Keys sign what the store has, besides those who have signed it before.
	Keys []sign.SecretKey
	// Compression of archives in narinfos: "none" or "zstd"; "" for "zstd".
	Compression string
	// Priority is what the cache says of itself: the lower the sooner it is asked.
	Priority int
	// Streams is how many archives are written at once; others wait. 0 for
	// DefaultStreams.
	Streams int
	// Stalled is for how long a client may take nothing of an answer; 0 for 5 minutes.
	Stalled time.Duration
	// Warn is told of what is wrong with the store; nil for nobody.
	Warn func(error)
}

// DefaultStreams is Options.Streams if that is zero.
const DefaultStreams = 64

// A Server is an http.Handler that serves a store.
type Server struct {
	store    Store
	opts     Options
	streams  chan struct{}
	encoders chan *zstd.Encoder
}

var _ http.Handler = (*Server)(nil)

// New makes a server of a store, which stays the caller's.
func New(st Store, opts Options) (*Server, error) {
	opts.Compression = cmp.Or(opts.Compression, "zstd")
	if opts.Compression != "zstd" && opts.Compression != "none" {
		return nil, fmt.Errorf("serve store: compression '%s' is not supported; use none or zstd", opts.Compression)
	}
	opts.Streams = cmp.Or(max(opts.Streams, 0), DefaultStreams)
	opts.Stalled = cmp.Or(opts.Stalled, 5*time.Minute)
	if opts.Warn == nil {
		opts.Warn = func(error) {}
	}
	const idle = 4 // encoders that are kept
	return &Server{st, opts, make(chan struct{}, opts.Streams), make(chan *zstd.Encoder, idle)}, nil
}

// ServeHTTP implements http.Handler.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "this cache can only be read", http.StatusMethodNotAllowed)
		return
	}
	w = &patient{ResponseWriter: w, limit: s.opts.Stalled}
	name := strings.TrimPrefix(r.URL.Path, "/")
	dir, rest, below := strings.Cut(name, "/")
	var err error
	switch hash, extension, _ := strings.Cut(name, "."); {
	case name == "nix-cache-info":
		s.text(w, r, "text/x-nix-cache-info", s.about())
	case extension == "narinfo" && !below:
		err = s.narinfo(w, r, hash)
	case extension == "ls" && !below:
		err = s.listing(w, r, hash)
	case dir == "nar":
		err = s.archive(w, r, rest)
	case dir == "log":
		err = s.log(w, r, rest)
	case dir == "realisations":
		err = s.legacyRealisation(w, r, rest)
	case dir == "build-trace-v2":
		err = s.realisation(w, r, rest)
	default:
		err = store.ErrNotFound
	}
	s.end(w, r, err)
}

// end answers a request that failed.
func (s *Server) end(w http.ResponseWriter, r *http.Request, err error) {
	switch {
	case err == nil:
	case errors.Is(err, store.ErrNotFound):
		http.NotFound(w, r)
	case r.Context().Err() != nil:
		// Nobody is there to be told.
	default:
		s.opts.Warn(fmt.Errorf("answer '%.200s': %w", r.URL.Path, err))
		http.Error(w, "the store could not be read", http.StatusInternalServerError)
	}
}

// text answers with a short text.
func (s *Server) text(w http.ResponseWriter, r *http.Request, kind string, text []byte) {
	w.Header().Set("Content-Type", kind)
	w.Header().Set("Content-Length", strconv.Itoa(len(text)))
	if r.Method == http.MethodGet {
		_, _ = w.Write(text)
	}
}

func (s *Server) about() []byte {
	return fmt.Appendf(nil, "StoreDir: %s\nWantMassQuery: 1\nPriority: %d\n", s.store.Dir(), s.opts.Priority)
}

// info finds an object by its hash part.
func (s *Server) info(ctx context.Context, hashPart string) (*nix.PathInfo, error) {
	if _, err := nix.ParseStorePath(hashPart + "-x"); err != nil {
		return nil, store.ErrNotFound
	}
	p, err := s.store.PathFromHashPart(ctx, hashPart)
	if err != nil {
		return nil, err
	}
	return s.store.PathInfo(ctx, p)
}

// patient waits for a client for a limited time.
type patient struct {
	http.ResponseWriter
	limit time.Duration
	set   time.Time
}

// Write implements io.Writer.
func (p *patient) Write(b []byte) (int, error) {
	if now := time.Now(); now.Sub(p.set) > p.limit/10 {
		p.set = now
		// Writers without deadlines are those of tests.
		_ = http.NewResponseController(p.ResponseWriter).SetWriteDeadline(now.Add(p.limit))
	}
	return p.ResponseWriter.Write(b)
}

// Unwrap is for http.ResponseController.
func (p *patient) Unwrap() http.ResponseWriter { return p.ResponseWriter }
