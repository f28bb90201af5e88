package worker

import (
	"fmt"
	"io"
	"strings"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/wire"
)

// Framed tells whether a framed stream follows a request.
func (p *Protocol) Framed(r Request) bool {
	switch r.Op() {
	case OpAddToStore:
		return p.since(25)
	case OpAddToStoreNar:
		return p.since(23)
	case OpAddMultipleToStore, OpAddBuildLog:
		return true
	}
	return false
}

// AddToStore adds an object whose path follows from its content. Since version
// 1.25 the body is framed: an archive, or with the methods Flat and Text the bytes
// of the file. Before, it is an archive, which nothing frames, with every method,
// and References and Repair are not sent.
type AddToStore struct {
	Name       string
	Method     nix.ContentAddressMethod
	Algorithm  nix.HashAlgorithm
	References []nix.StorePath
	Repair     bool
}

// Op implements Request.
func (*AddToStore) Op() Op { return OpAddToStore }
func (r *AddToStore) write(e *Encoder) {
	e.Text(r.Name)
	if !e.since(25) {
		if r.Method != nix.Flat && r.Method != nix.Recursive {
			e.Fail(fmt.Errorf("add '%s': the daemon is too old for the method '%s'", r.Name, r.Method))
		}
		e.Bool(r.Algorithm != nix.SHA256 || r.Method != nix.Recursive)
		e.Bool(r.Method == nix.Recursive)
		e.Text(r.Algorithm.String())
		return
	}
	if r.Method == nix.Text {
		e.Text("text:" + r.Algorithm.String())
	} else {
		e.Text("fixed:" + r.Method.Prefix() + r.Algorithm.String())
	}
	e.PathSet(r.References)
	e.Bool(r.Repair)
}
func (r *AddToStore) read(d *Decoder) {
	r.Name = d.Text()
	if !d.since(25) {
		fixed, recursive := d.Bool(), d.Bool()
		r.Method, r.Algorithm = nix.Recursive, nix.SHA256
		algorithm := d.Text()
		if fixed {
			if !recursive {
				r.Method = nix.Flat
			}
			r.Algorithm = d.algorithm(algorithm)
		}
		return
	}
	method := d.Text()
	if d.Err() == nil {
		kind, rest, _ := strings.Cut(method, ":")
		switch kind {
		case "text":
			r.Method = nix.Text
		case "fixed":
			r.Method, rest = nix.CutMethodPrefix(rest)
		default:
			d.Fail(fmt.Errorf("add '%.300s': '%.300s' is no method of content addresses", r.Name, method))
		}
		r.Algorithm = d.algorithm(rest)
	}
	r.References, r.Repair = d.PathSet(), d.Bool()
}

func (d *Decoder) algorithm(name string) nix.HashAlgorithm {
	if d.Err() != nil {
		return 0
	}
	a, err := nix.ParseHashAlgorithm(name)
	if err != nil {
		d.Fail(err)
	}
	return a
}

// AddTextToStore adds a file with references. Clients before version 1.25 send it.
type AddTextToStore struct {
	Name       string
	Content    []byte
	References []nix.StorePath
}

// Op implements Request.
func (*AddTextToStore) Op() Op { return OpAddTextToStore }
func (r *AddTextToStore) write(e *Encoder) {
	e.Text(r.Name)
	e.Bytes(r.Content)
	e.PathSet(r.References)
}
func (r *AddTextToStore) read(d *Decoder) {
	r.Name, r.Content, r.References = d.Text(), d.Bytes(), d.PathSet()
}

// AddToStoreNar adds an object of which everything is known. The body is the
// archive: framed since version 1.23, asked for with Read messages since 1.21, and before
// that framed by nothing.
// There is no reply.
type AddToStoreNar struct {
	Info                  *nix.PathInfo
	Repair, DontCheckSigs bool
}

// Op implements Request.
func (*AddToStoreNar) Op() Op { return OpAddToStoreNar }
func (r *AddToStoreNar) write(e *Encoder) {
	e.PathInfo(r.Info)
	e.Bool(r.Repair)
	e.Bool(r.DontCheckSigs)
}
func (r *AddToStoreNar) read(d *Decoder) {
	r.Info, r.Repair, r.DontCheckSigs = d.PathInfo(), d.Bool(), d.Bool()
}

// AddMultipleToStore adds many objects. The body is framed: their number, and then
// for each what is known of it, and its archive; see ObjectWriter and ObjectReader.
// There is no reply.
type AddMultipleToStore struct{ Repair, DontCheckSigs bool }

// Op implements Request.
func (*AddMultipleToStore) Op() Op { return OpAddMultipleToStore }
func (r *AddMultipleToStore) write(e *Encoder) {
	e.Bool(r.Repair)
	e.Bool(r.DontCheckSigs)
}
func (r *AddMultipleToStore) read(d *Decoder) { r.Repair, r.DontCheckSigs = d.Bool(), d.Bool() }

// AddBuildLog adds what a builder printed. The body is framed: the text.
type AddBuildLog struct{ Drv nix.StorePath }

// Op implements Request.
func (*AddBuildLog) Op() Op             { return OpAddBuildLog }
func (r *AddBuildLog) write(e *Encoder) { e.BaseName(r.Drv) }
func (r *AddBuildLog) read(d *Decoder)  { r.Drv = d.BaseName() }

// An ObjectWriter writes the body of AddMultipleToStore. What is known of objects
// has the same form in all versions.
type ObjectWriter struct{ e *Encoder }

// NewObjectWriter begins the body with the number of objects, which w, usually a
// wire.FramedWriter, takes.
func NewObjectWriter(w io.Writer, dir nix.StoreDir, n int) *ObjectWriter {
	e := &Encoder{Writer: wire.NewWriter(w), Protocol: Protocol{Dir: dir, Version: Oldest}}
	e.Uint64(uint64(n))
	return &ObjectWriter{e}
}

// Next writes what is known of an object. Its archive is then written to the writer
// that Next returns, which is good until Next or Close is called.
func (w *ObjectWriter) Next(info *nix.PathInfo) io.Writer {
	w.e.PathInfo(info)
	return w.e
}

// Close passes on what is left. It does not close the writer below.
func (w *ObjectWriter) Close() error { return w.e.Flush() }

// An ObjectReader reads the body of AddMultipleToStore.
type ObjectReader struct {
	d    *Decoder
	left uint64
}

// NewObjectReader makes an ObjectReader of r, usually a wire.FramedReader, from
// which it may take more than it was asked for.
func NewObjectReader(r io.Reader, dir nix.StoreDir, limits wire.Limits) *ObjectReader {
	d := &Decoder{Reader: wire.NewReader(r, limits), Protocol: Protocol{Dir: dir, Version: Oldest}}
	return &ObjectReader{d: d, left: d.Uint64()}
}

// Release says that nothing more is read.
func (r *ObjectReader) Release() { r.d.Begin() }

// Next reads what is known of the next object, whose archive is then to be read,
// to its end, from the reader that Next returns. After the last one it returns
// io.EOF.
func (r *ObjectReader) Next() (*nix.PathInfo, io.Reader, error) {
	if r.d.Err() == nil && r.left == 0 {
		return nil, nil, io.EOF
	}
	r.left--
	r.d.Begin()
	info := r.d.PathInfo()
	if err := r.d.Err(); err != nil {
		return nil, nil, fmt.Errorf("read object: %w", err)
	}
	return info, r.d, nil
}
