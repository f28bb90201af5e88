package binarycache

import (
	"bufio"
	"compress/bzip2"
	"context"
	"fmt"
	"io"
	"runtime"

	"github.com/andybalholm/brotli"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/pierrec/lz4/v4"
	"github.com/therootcompany/xz"
)

// maxWindow bounds the memory of decoders, in bytes: what the strongest usual levels
// need.
const maxWindow = 128 << 20

// extensions are what the names of archives end in, for each compression that can be
// read.
var extensions = map[string]string{
	"none": "", "xz": ".xz", "zstd": ".zst", "bzip2": ".bz2", "gzip": "", "br": ".br", "lz4": ".lz4",
}

// decompress gives what was compressed. It is closed by the caller, who closes r.
func decompress(compression string, r io.Reader) (io.ReadCloser, error) {
	switch compression {
	case "none":
		return io.NopCloser(r), nil
	case "xz":
		z, err := xz.NewReader(bufio.NewReaderSize(r, 64<<10), maxWindow)
		return io.NopCloser(z), err
	case "zstd":
		z, err := zstd.NewReader(r, zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true))
		if err != nil {
			return nil, err
		}
		return z.IOReadCloser(), nil
	case "bzip2":
		return io.NopCloser(bzip2.NewReader(bufio.NewReaderSize(r, 64<<10))), nil
	case "gzip":
		return gzip.NewReader(bufio.NewReaderSize(r, 64<<10))
	case "br":
		return io.NopCloser(brotli.NewReader(r)), nil
	case "lz4":
		return io.NopCloser(lz4.NewReader(r)), nil
	}
	return nil, fmt.Errorf("compression '%.40s' is not supported", compression)
}

// A compressor says how archives are compressed.
type compressor struct {
	method   string
	level    int  // -1 for the usual one
	parallel bool // whether to use all processors
}

// check tells whether archives can be compressed so.
func (c compressor) check() error {
	switch c.method {
	case "none", "zstd", "gzip", "br":
		return nil
	case "xz":
		if path, _ := xzProgram(); path == "" {
			return errNoXZ
		}
		return nil
	}
	return fmt.Errorf("compression '%.40s' is not supported for writing; use none, xz, zstd, gzip or br", c.method)
}

// writer compresses to w. Closing it ends the compressed stream, and not w.
func (c compressor) writer(ctx context.Context, w io.Writer) (io.WriteCloser, error) {
	switch c.method {
	case "none":
		return nopCloser{w}, nil
	case "xz":
		return c.writeXZ(ctx, w)
	case "zstd":
		level := zstd.SpeedDefault
		if c.level >= 0 {
			level = zstd.EncoderLevelFromZstd(c.level)
		}
		n := 1
		if c.parallel {
			n = runtime.GOMAXPROCS(0)
		}
		return zstd.NewWriter(w, zstd.WithEncoderLevel(level), zstd.WithEncoderConcurrency(n), zstd.WithWindowSize(8<<20))
	case "gzip":
		return gzip.NewWriterLevel(w, c.level)
	case "br":
		level := brotli.DefaultCompression
		if c.level >= 0 {
			level = min(c.level, brotli.BestCompression)
		}
		return brotli.NewWriterLevel(w, level), nil
	}
	return nil, c.check()
}

type nopCloser struct{ io.Writer }

func (nopCloser) Close() error { return nil }
