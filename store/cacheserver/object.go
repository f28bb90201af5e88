package cacheserver

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/kilnbuild/kiln/internal/bufpipe"
	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/narinfo"
	"github.com/kilnbuild/kiln/nix/narlist"
	"github.com/kilnbuild/kiln/store"
)

// archiveName is what the archive of an object is called. It has the hash, so that what
// is asked for later is the same or nothing.
func archiveName(info *nix.PathInfo) string {
	return info.Path.HashPart() + "-" + info.NARHash.Nix32() + ".nar"
}

func (s *Server) narinfo(w http.ResponseWriter, r *http.Request, hashPart string) error {
	info, err := s.info(r.Context(), hashPart)
	if err != nil {
		return err
	}
	i := &narinfo.Info{PathInfo: *info, Compression: s.opts.Compression, URL: "nar/" + archiveName(info)}
	if s.opts.Compression == "none" {
		i.FileHash, i.FileSize = info.NARHash, info.NARSize
	} else {
		i.URL += ".zst"
	}
	for _, k := range s.opts.Keys {
		signature, err := k.SignObject(s.store.Dir(), info)
		if err != nil {
			return err
		}
		if !slices.Contains(i.Signatures, signature) {
			i.Signatures = append(i.Signatures, signature)
		}
	}
	s.text(w, r, "text/x-nix-narinfo", i.Append(nil, s.store.Dir()))
	return nil
}

// archive answers with an archive, as it is or compressed. Of the former parts can be
// had.
func (s *Server) archive(w http.ResponseWriter, r *http.Request, name string) error {
	ctx := r.Context()
	plain, compressed := strings.CutSuffix(name, ".zst")
	hashPart, _, _ := strings.Cut(plain, "-")
	info, err := s.info(ctx, hashPart)
	if err == nil && plain != archiveName(info) {
		err = store.ErrNotFound
	}
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/x-nix-nar")
	if r.Method == http.MethodHead && compressed {
		return nil
	}
	select {
	case s.streams <- struct{}{}:
		defer func() { <-s.streams }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if compressed {
		return s.compress(ctx, w, info)
	}
	w.Header().Set("ETag", `"`+info.NARHash.Nix32()+`"`)
	if strings.Contains(r.Header.Get("Range"), ",") {
		r.Header.Del("Range") // each part would be read from the beginning
	}
	content := &content{ctx: ctx, store: s.store, info: info}
	defer content.close()
	http.ServeContent(w, r, "", time.Time{}, content)
	return nil
}

// compress answers with a compressed archive, whose size nobody knows before.
func (s *Server) compress(ctx context.Context, w http.ResponseWriter, info *nix.PathInfo) error {
	var z *zstd.Encoder
	select {
	case z = <-s.encoders:
	default:
		var err error
		// One that is fast, and needs little memory while many are served.
		if z, err = zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1), zstd.WithWindowSize(1<<20)); err != nil {
			return err
		}
	}
	z.Reset(w)
	err := s.store.NAR(ctx, info.Path, z)
	if err == nil {
		err = z.Close()
	}
	if err != nil {
		s.broken(ctx, err)
	}
	select {
	case s.encoders <- z:
	default:
	}
	return nil
}

// broken ends an answer in the middle, so that the client sees that it is not complete.
func (s *Server) broken(ctx context.Context, err error) {
	if ctx.Err() == nil {
		s.opts.Warn(err)
	}
	panic(http.ErrAbortHandler)
}

// content is an archive that can be read from any place, as http.ServeContent wants it.
type content struct {
	ctx    context.Context
	store  Store
	info   *nix.PathInfo
	offset int64
	r      *bufpipe.Reader // from offset on; nil until something is read
	ended  chan struct{}
}

// Seek implements io.Seeker.
func (c *content) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += c.offset
	case io.SeekEnd:
		offset += c.info.NARSize
	}
	if offset < 0 {
		return 0, errors.New("seek before the beginning of an archive")
	}
	c.close()
	c.offset = offset
	return offset, nil
}

// Read implements io.Reader.
func (c *content) Read(p []byte) (int, error) {
	if c.r == nil {
		r, w := bufpipe.New()
		c.r, c.ended = r, make(chan struct{})
		go func(skip int64, ended chan struct{}) {
			defer close(ended)
			out := bufio.NewWriterSize(&from{w, skip}, 64<<10)
			err := c.store.NAR(c.ctx, c.info.Path, out)
			if err == nil {
				err = out.Flush()
			}
			w.CloseWithError(err)
		}(c.offset, c.ended)
	}
	n, err := c.r.Read(p)
	c.offset += int64(n)
	return n, err
}

// close ends what writes the archive.
func (c *content) close() {
	if c.r != nil {
		c.r.Close()
		<-c.ended
		c.r = nil
	}
}

// from passes over the first bytes.
type from struct {
	w    io.Writer
	skip int64
}

func (f *from) Write(p []byte) (int, error) {
	passed := int(min(f.skip, int64(len(p))))
	f.skip -= int64(passed)
	n, err := 0, error(nil)
	if passed < len(p) {
		n, err = f.w.Write(p[passed:])
	}
	return passed + n, err
}

// listing answers with what is in an archive.
func (s *Server) listing(w http.ResponseWriter, r *http.Request, hashPart string) error {
	ctx := r.Context()
	info, err := s.info(ctx, hashPart)
	if err != nil {
		return err
	}
	w.Header().Set("Content-Type", "application/json")
	if r.Method == http.MethodHead {
		return nil
	}
	select {
	case s.streams <- struct{}{}:
		defer func() { <-s.streams }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	archive := &content{ctx: ctx, store: s.store, info: info}
	defer archive.close()
	if err := narlist.Write(w, archive, narlist.Options{}); err != nil {
		s.broken(ctx, err)
	}
	return nil
}
