package store

import (
	"bufio"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/kilnbuild/kiln/internal/bufpipe"
	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/githash"
	"github.com/kilnbuild/kiln/nix/nar"
)

// WriteContent has write write the archive of info to w, and compares it with its
// content address, if it has one, as it passes. It is for stores whose other side
// believes in content addresses: that the archive has its hash is for that to see, and
// the address of a tree that refers to itself is believed here too. An error comes
// before write is called where the path does not follow from the content address, and
// otherwise after the last byte.
func WriteContent(w io.Writer, dir nix.StoreDir, info *nix.PathInfo, write func(io.Writer) error) error {
	c, err := newContent(dir, info)
	if err != nil {
		return err
	}
	return c.check(w, write)
}

// content is what an archive is compared with.
type content struct{ want nix.ContentAddress }

func newContent(dir nix.StoreDir, info *nix.PathInfo) (content, error) {
	if info.CA.IsZero() {
		return content{}, nil
	}
	p, err := nix.MakeContentAddressedPath(dir, info.Path.Name(), info.CA, info.SelfReferences())
	if err == nil && p != info.Path {
		err = errors.New("it claims to be content-addressed but isn't")
	}
	switch {
	case err != nil:
		return content{}, err
	case info.SelfReferences().Self:
		return content{}, nil
	case info.CA.Method == nix.Recursive && info.CA.Hash.Algorithm() == nix.SHA256:
		if info.CA.Hash != info.NARHash {
			err = errors.New("its archive's hash is not that of its content address")
		}
		return content{}, err // which the other side compares it with
	}
	return content{info.CA}, nil
}

func (c content) check(w io.Writer, write func(io.Writer) error) error {
	if c.want.IsZero() {
		return write(w)
	}
	pr, pw := bufpipe.New()
	type result struct {
		got nix.Hash
		err error
	}
	summed := make(chan result, 1)
	go func() {
		got, err := c.sum(bufio.NewReader(pr))
		pr.CloseWithError(err)
		summed <- result{got, err}
	}()
	buffered := bufio.NewWriterSize(pw, 64<<10)
	err := write(io.MultiWriter(w, buffered))
	if err == nil {
		err = buffered.Flush()
	}
	pw.CloseWithError(err)
	r := <-summed
	switch {
	case r.err != nil && err == nil:
		return r.err
	case err != nil:
		return err
	case r.got != c.want.Hash:
		return fmt.Errorf("the content does not have the content address %s", c.want)
	}
	return nil
}

// sum reads an archive to its end.
func (c content) sum(archive io.Reader) (nix.Hash, error) {
	algo := c.want.Hash.Algorithm()
	if c.want.Method == nix.Git {
		return githash.Sum(archive, algo, nar.Limits{})
	}
	sum := algo.New()
	var err error
	if c.want.Method == nix.Recursive {
		_, err = io.Copy(sum, archive)
	} else {
		err = sumFile(sum, archive, c.want.Method == nix.Flat)
	}
	if err != nil {
		return nix.Hash{}, err
	}
	return nix.SumHash(algo, sum), nil
}

// sumFile hashes the content of a file, which may be executable if that is so said: Nix
// hashes nothing but the bytes, and adds files that can be run that way.
func sumFile(sum hash.Hash, archive io.Reader, executable bool) error {
	r := nar.NewReader(archive, nar.Limits{})
	h, err := r.Next()
	if err != nil {
		return err
	}
	if h.Type != nar.Regular || h.Executable && !executable {
		return errors.New("its content address is that of a plain file, and it is none")
	}
	if _, err := io.Copy(sum, r); err != nil {
		return err
	}
	if _, err := r.Next(); err != io.EOF {
		return err
	}
	return nil
}
