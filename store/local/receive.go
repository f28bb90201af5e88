package local

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"

	"github.com/kilnbuild/kiln/internal/bufpipe"
	"github.com/kilnbuild/kiln/internal/dirfd"
	"github.com/kilnbuild/kiln/internal/rmtree"
	"github.com/kilnbuild/kiln/internal/until"
	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/githash"
	"github.com/kilnbuild/kiln/nix/nar"
	"github.com/kilnbuild/kiln/nix/refscan"
)

// received is a tree in the store's temporary directory, canonical and complete,
// that may become an object.
type received struct {
	room    *tempRoom
	dir     int
	name    string
	narHash nix.Hash
	narSize int64
}

// receive unpacks an archive into the temporary directory. The archive is also
// written to the given hashes. Nothing is left after an error.
func (s *Store) receive(ctx context.Context, r io.Reader, others ...hash.Hash) (*received, error) {
	if f := s.onAdd.Load(); f != nil {
		(*f)()
	}
	dir, name, err := s.room.open(ctx)
	if err != nil {
		return nil, err
	}
	sum := nix.SHA256.New()
	d := newDigest(append(others, sum)...)
	stats, err := nar.RestoreAt(dir, name, io.TeeReader(until.Reader(ctx, r), d), nar.RestoreOptions{})
	d.wait()
	if err != nil {
		s.room.leave()
		return nil, explain(err)
	}
	return &received{room: &s.room, dir: dir, name: name, narHash: nix.SumHash(nix.SHA256, sum), narSize: stats.Size}, nil
}

// discard removes the tree, if it was not moved.
func (t *received) discard() error {
	defer t.room.leave()
	return rmtree.RemoveAt(t.dir, t.name)
}

// matches tells whether the tree has a content address. refs are the
// references of the object, and self its hash part.
func (t *received) matches(ca nix.ContentAddress, refs nix.References, self string) (bool, error) {
	switch {
	case ca.Method == nix.Recursive && refs.Self:
		return t.matchesModulo(ca.Hash, self)
	case ca.Method == nix.Recursive && ca.Hash.Algorithm() == nix.SHA256:
		return ca.Hash == t.narHash, nil
	case ca.Method == nix.Recursive:
		sum := ca.Hash.Algorithm().New()
		_, err := nar.DumpAt(sum, t.dir, t.name, nar.DumpOptions{})
		return err == nil && nix.SumHash(ca.Hash.Algorithm(), sum) == ca.Hash, err
	case ca.Method == nix.Flat || ca.Method == nix.Text:
		sum := ca.Hash.Algorithm().New()
		// Nix hashes nothing but the bytes, and adds files that can be run that way.
		ok, err := t.hashFile(sum, ca.Method == nix.Flat)
		return ok && nix.SumHash(ca.Hash.Algorithm(), sum) == ca.Hash, err
	}
	if ca.Method == nix.Git {
		hash, err := t.gitHash(ca.Hash.Algorithm())
		return err == nil && hash == ca.Hash, err
	}
	return false, fmt.Errorf("hashing by the method '%s' is not supported", ca.Method)
}

// gitHash is the hash of the tree as git makes it.
func (t *received) gitHash(algo nix.HashAlgorithm) (nix.Hash, error) {
	r, w := io.Pipe()
	dumped := make(chan struct{})
	go func() {
		defer close(dumped)
		_, err := nar.DumpAt(w, t.dir, t.name, nar.DumpOptions{})
		w.CloseWithError(err)
	}()
	hash, err := githash.Sum(bufio.NewReader(r), algo, nar.Limits{})
	r.Close()
	<-dumped
	return hash, err
}

// matchesModulo compares the hash of an archive in which the object's own hash
// part is blanked. Nix 2.26 and 2.34 hash nothing else; other versions hash, after
// it, where it was. Both are true of the content.
func (t *received) matchesModulo(want nix.Hash, self string) (bool, error) {
	plain, placed := want.Algorithm().New(), want.Algorithm().New()
	blank, err := refscan.NewRewriter(plain, map[string]string{self: string(make([]byte, len(self)))}, refscan.RewriterOptions{})
	if err != nil {
		return false, err
	}
	modulo, err := refscan.NewModulo(placed, self)
	if err != nil {
		return false, err
	}
	if _, err := nar.DumpAt(io.MultiWriter(blank, modulo), t.dir, t.name, nar.DumpOptions{}); err != nil {
		return false, err
	}
	if err := errors.Join(blank.Close(), modulo.Close()); err != nil {
		return false, err
	}
	return nix.SumHash(want.Algorithm(), plain) == want || nix.SumHash(want.Algorithm(), placed) == want, nil
}

// hashFile hashes a tree that is one file, which may be executable if that is so said; it
// says if it is not.
func (t *received) hashFile(w io.Writer, executable bool) (ok bool, err error) {
	fd, err := dirfd.OpenFile(t.dir, t.name)
	if err != nil {
		return false, nil // a symlink or a directory
	}
	f := os.NewFile(uintptr(fd), t.name)
	defer f.Close()
	if info, err := f.Stat(); err != nil || !info.Mode().IsRegular() || info.Mode()&0o100 != 0 && !executable {
		return false, err
	}
	block := takeBlock()
	defer giveBlock(block)
	_, err = io.CopyBuffer(w, struct{ io.Reader }{f}, (*block)[:cap(*block)])
	return err == nil, err
}

// produce runs a function that writes an archive, and receives the archive.
func (s *Store) produce(ctx context.Context, write func(io.Writer) error, others ...hash.Hash) (*received, error) {
	r, w := bufpipe.New()
	ended := make(chan error, 1)
	go func() {
		err := write(w)
		ended <- err
		w.CloseWithError(err)
	}()
	t, err := s.receive(ctx, r, others...)
	if err == nil {
		// The end of the archive is to be that of the stream.
		if n, _ := r.Read(make([]byte, 1)); n > 0 {
			t, err = nil, errors.Join(errBehind, t.discard())
		}
	}
	r.CloseWithError(err)
	werr := <-ended
	switch {
	case err == nil && werr != nil:
		return nil, errors.Join(werr, t.discard())
	case werr != nil && errors.Is(err, werr):
		return nil, werr // the reader only repeats it
	}
	return t, err
}

// archiveOf is the archive of one non-executable file.
func archiveOf(content []byte) ([]byte, error) {
	var b bytes.Buffer
	err := writeArchive(&b, bytes.NewReader(content), int64(len(content)))
	return b.Bytes(), err
}

// writeArchive writes the archive of one non-executable file of the given size.
func writeArchive(w io.Writer, content io.Reader, size int64) error {
	out := nar.NewWriter(w, nar.Limits{})
	err := out.WriteHeader(nar.Header{Type: nar.Regular, Size: size})
	if err == nil {
		_, err = io.Copy(out, content)
	}
	if cerr := out.Close(); err == nil {
		err = cerr
	}
	return err
}
