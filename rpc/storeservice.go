package rpc

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"

	kilnv1 "github.com/kilnbuild/kiln/api/kiln/v1"
	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/store"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// storeService moves store objects.
type storeService struct {
	kilnv1.UnimplementedStoreServer
	s *Server
}

// missingOf gives those of paths that are not valid.
func missingOf(ctx context.Context, st Store, paths []nix.StorePath) (missing []nix.StorePath, err error) {
	valid, err := st.ValidPaths(ctx, paths)
	if err != nil {
		return nil, err
	}
	there := make(map[nix.StorePath]bool, len(valid))
	for _, p := range valid {
		there[p] = true
	}
	for _, p := range paths {
		if !there[p] {
			missing = append(missing, p)
		}
	}
	return missing, nil
}

// QueryMissing implements kilnv1.StoreServer. What it finds to be there stays there for as
// long as the connection: whoever asks is about to use it.
func (x *storeService) QueryMissing(ctx context.Context, m *kilnv1.QueryMissingRequest) (*kilnv1.QueryMissingResponse, error) {
	if len(m.StorePaths) > maxPaths {
		return nil, invalid("store_paths", "there are %d, and may be %d at most", len(m.StorePaths), maxPaths)
	}
	dir := x.s.cfg.StoreDir
	paths := make([]nix.StorePath, 0, len(m.StorePaths))
	for i, text := range m.StorePaths {
		p, err := dir.Parse(text)
		if err != nil {
			return nil, invalid(fmt.Sprintf("store_paths[%d]", i), "%v", err)
		}
		paths = append(paths, p)
	}
	in, err := x.s.at(ctx)
	if err != nil {
		return nil, failed(err)
	}
	defer in.leave()
	st := in.Store()
	if callerOf(ctx).role >= kilnv1.Role_ROLE_SUBMIT {
		// Only what is there, or anybody could make the list of roots grow; and what is
		// there may be gone before it is a root, so it is looked at again.
		there, err := st.ValidPaths(ctx, paths)
		if err == nil {
			err = st.AddTempRoot(ctx, there...)
		}
		if err != nil {
			return nil, failed(err)
		}
	}
	missing, err := missingOf(ctx, st, paths)
	if err != nil {
		return nil, failed(err)
	}
	return &kilnv1.QueryMissingResponse{StorePaths: joined(dir, missing)}, nil
}

// GetPathInfo implements kilnv1.StoreServer.
func (x *storeService) GetPathInfo(ctx context.Context, m *kilnv1.GetPathInfoRequest) (*kilnv1.PathInfo, error) {
	in, err := x.s.at(ctx)
	if err != nil {
		return nil, failed(err)
	}
	defer in.leave()
	info, err := infoIn(ctx, in.Store(), m.StorePath)
	if err != nil {
		return nil, err
	}
	return pathInfo(x.s.cfg.StoreDir, info), nil
}

func infoIn(ctx context.Context, st Store, path string) (*nix.PathInfo, error) {
	p, err := st.Dir().Parse(path)
	if err != nil {
		return nil, invalid("store_path", "%v", err)
	}
	info, err := st.PathInfo(ctx, p)
	if errors.Is(err, store.ErrNotFound) {
		return nil, status.Error(codes.NotFound, valid(err.Error()))
	}
	return info, failed(err)
}

func pathInfo(dir nix.StoreDir, info *nix.PathInfo) *kilnv1.PathInfo {
	m := &kilnv1.PathInfo{
		StorePath: dir.Join(info.Path), NarHash: info.NARHash.SRI(), NarSize: info.NARSize, References: joined(dir, info.References),
		Signatures: info.Signatures, ContentAddress: info.CA.String(), RegistrationTime: timestamp(info.RegistrationTime), Ultimate: info.Ultimate,
	}
	if info.Deriver != "" {
		m.Deriver = dir.Join(info.Deriver)
	}
	return m
}

// pathInfoOf reads what somebody says of an object; field is where it says it.
func pathInfoOf(dir nix.StoreDir, m *kilnv1.PathInfo, field string) (*nix.PathInfo, error) {
	if m == nil {
		return nil, invalid(field, "there is none")
	}
	info := &nix.PathInfo{NARSize: m.NarSize, Signatures: m.Signatures, RegistrationTime: timeOf(m.RegistrationTime)}
	var err error
	if info.Path, err = dir.Parse(m.StorePath); err != nil {
		return nil, invalid(field+".store_path", "%v", err)
	}
	if info.NARHash, err = nix.ParseHash(m.NarHash); err == nil && info.NARHash.Algorithm() != nix.SHA256 {
		err = errors.New("it has to be of SHA-256")
	}
	if err != nil {
		return nil, invalid(field+".nar_hash", "%v", err)
	}
	if m.NarSize <= 0 {
		return nil, invalid(field+".nar_size", "it is %d", m.NarSize)
	}
	if len(m.References) > maxPaths || len(m.Signatures) > 1000 {
		return nil, invalid(field, "there are more references or signatures than any object has")
	}
	for i, r := range m.References {
		p, err := dir.Parse(r)
		if err != nil {
			return nil, invalid(fmt.Sprintf("%s.references[%d]", field, i), "%v", err)
		}
		info.References = append(info.References, p)
	}
	if m.Deriver != "" {
		if info.Deriver, err = dir.Parse(m.Deriver); err != nil {
			return nil, invalid(field+".deriver", "%v", err)
		}
	}
	if info.CA, err = nix.ParseContentAddress(m.ContentAddress); err != nil {
		return nil, invalid(field+".content_address", "%v", err)
	}
	return info, nil
}

// maxWindow bounds the memory of a decoder.
const maxWindow = 8 << 20

// decompress gives the archive of what comes compressed. It is to be closed.
func decompress(r io.Reader, c kilnv1.Compression, field string) (io.Reader, func(), error) {
	switch c {
	case kilnv1.Compression_COMPRESSION_UNSPECIFIED:
		return r, func() {}, nil
	case kilnv1.Compression_COMPRESSION_ZSTD:
		z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderLowmem(true))
		if err != nil {
			return nil, nil, err
		}
		return z, z.Close, nil
	}
	return nil, nil, invalid(field, "%d is none", c)
}

// parts reads the data of a stream of messages.
type parts struct {
	next func() ([]byte, error)
	left []byte
	n    uint64
	err  error // not io.EOF: why there is no more
}

func (p *parts) Read(buf []byte) (int, error) {
	for len(p.left) == 0 {
		var err error
		if p.left, err = p.next(); err != nil {
			if !errors.Is(err, io.EOF) {
				p.err = err
			}
			return 0, err
		}
		p.n += uint64(len(p.left))
	}
	n := copy(buf, p.left)
	p.left = p.left[n:]
	return n, nil
}

// Upload implements kilnv1.StoreServer.
func (x *storeService) Upload(stream kilnv1.Store_UploadServer) error {
	ctx, dir := stream.Context(), x.s.cfg.StoreDir
	first, err := stream.Recv()
	if err != nil {
		if errors.Is(err, io.EOF) {
			return invalid("info", "the stream ended before it")
		}
		return err
	}
	head := first.GetInfo()
	if head == nil {
		return invalid("info", "the first message has to have it")
	}
	info, err := pathInfoOf(dir, head.Info, "info.info")
	if err != nil {
		return err
	}
	in, err := x.s.at(ctx)
	if err != nil {
		return failed(err)
	}
	defer in.leave()
	st := in.Store()
	if err := st.AddTempRoot(ctx, info.Path); err != nil {
		return failed(err)
	}
	missing, err := missingOf(ctx, st, []nix.StorePath{info.Path})
	if err != nil {
		return failed(err)
	}
	if len(missing) == 0 {
		return stream.SendAndClose(&kilnv1.UploadResponse{WasThere: true})
	}
	data := &parts{next: func() ([]byte, error) {
		m, err := stream.Recv()
		if err != nil {
			return nil, err
		}
		if m.GetInfo() != nil {
			return nil, invalid("info", "it comes a second time")
		}
		return m.GetData(), nil
	}}
	archive, done, err := decompress(data, head.Compression, "info.compression")
	if err != nil {
		return err
	}
	defer done()
	untrusted := callerOf(ctx).role < kilnv1.Role_ROLE_ADMIN
	err = st.Add(ctx, info, archive, store.AddOptions{CheckSignatures: untrusted})
	x.s.metrics.moved(data.n, 0)
	switch {
	case err == nil:
		return stream.SendAndClose(&kilnv1.UploadResponse{})
	case data.err != nil:
		return failed(data.err) // the stream ended, or was nonsense
	}
	return rejected(dir.Join(info.Path), err)
}

// rejected is the status of an object that the store does not take.
func rejected(path string, err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return failed(err)
	}
	return invalid("data", "'%s' is not taken: %v", path, err)
}

// Download implements kilnv1.StoreServer.
func (x *storeService) Download(m *kilnv1.DownloadRequest, stream kilnv1.Store_DownloadServer) error {
	ctx := stream.Context()
	if _, ok := kilnv1.Compression_name[int32(m.Compression)]; !ok {
		return invalid("compression", "%d is none", m.Compression)
	}
	in, err := x.s.at(ctx)
	if err != nil {
		return failed(err)
	}
	defer in.leave()
	st := in.Store()
	info, err := infoIn(ctx, st, m.StorePath)
	if err != nil {
		return err
	}
	if err := st.AddTempRoot(ctx, info.Path); err != nil {
		return failed(err)
	}
	if err := stream.Send(&kilnv1.DownloadResponse{Part: &kilnv1.DownloadResponse_Info{Info: pathInfo(x.s.cfg.StoreDir, info)}}); err != nil {
		return err
	}
	n, err := send(m.Compression, func(w io.Writer) error { return st.NAR(ctx, info.Path, w) }, func(p []byte) error {
		return stream.Send(&kilnv1.DownloadResponse{Part: &kilnv1.DownloadResponse_Data{Data: p}})
	})
	x.s.metrics.moved(0, n)
	return failed(err)
}

// send gives an archive away in parts. It gives how many bytes they had.
func send(c kilnv1.Compression, archive func(io.Writer) error, part func([]byte) error) (uint64, error) {
	w := &chunks{part: part}
	if c != kilnv1.Compression_COMPRESSION_ZSTD {
		err := archive(w)
		if err == nil {
			err = w.flush()
		}
		return w.n, err
	}
	z, err := zstd.NewWriter(w, zstd.WithEncoderConcurrency(1), zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithWindowSize(1<<20))
	if err != nil {
		return 0, err
	}
	if err := archive(z); err != nil {
		z.Reset(nil)
		return w.n, err
	}
	if err := z.Close(); err != nil {
		return w.n, err
	}
	return w.n, w.flush()
}

// chunks makes parts of equal size of what is written. Each part is a slice of its own:
// gRPC may still read it after it was sent.
type chunks struct {
	part func([]byte) error
	buf  []byte
	n    uint64
}

func (c *chunks) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		if c.buf == nil {
			c.buf = make([]byte, 0, maxChunk)
		}
		m := min(len(p), maxChunk-len(c.buf))
		c.buf = append(c.buf, p[:m]...)
		p = p[m:]
		if len(c.buf) == maxChunk {
			if err := c.flush(); err != nil {
				return 0, err
			}
		}
	}
	return n, nil
}

func (c *chunks) flush() error {
	if len(c.buf) == 0 {
		return nil
	}
	c.n += uint64(len(c.buf))
	p := c.buf
	c.buf = nil
	return c.part(p)
}
