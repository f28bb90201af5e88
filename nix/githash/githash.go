// Package githash computes what git calls a tree of files: the hash of a blob
// or of a tree object. It is one of the ways to address store objects by their
// content (Nix manual, "Content-Addressing Store Objects", Git).
//
// It reads archives and knows nothing of repositories.
package githash

import (
	"bytes"
	"errors"
	"fmt"
	"hash"
	"io"
	"slices"
	"strconv"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/nar"
)

// The modes of git's tree objects.
const (
	modeDirectory  = "40000"
	modeRegular    = "100644"
	modeExecutable = "100755"
	modeSymlink    = "120000"
)

// Sum reads an archive and gives git's hash of what is in it: of a blob for a
// file or a symbolic link, of a tree for a directory, an empty one included.
// Whether a file alone is executable does not show in its hash. Git itself knows
// algo SHA1 and SHA256.
//
// Memory grows with the number of entries of the directories that are open at
// a time, not with the size of files. It takes no byte after the archive.
func Sum(archive io.Reader, algo nix.HashAlgorithm, limits nar.Limits) (nix.Hash, error) {
	s := &summer{algo: algo, r: nar.NewReader(archive, limits), block: make([]byte, 64<<10)}
	for {
		h, err := s.r.Next()
		if errors.Is(err, io.EOF) {
			s.close(0)
			return s.top, nil
		}
		if err != nil {
			return nix.Hash{}, err
		}
		s.close(h.Depth)
		if err := s.node(h); err != nil {
			return nix.Hash{}, err
		}
	}
}

type summer struct {
	algo  nix.HashAlgorithm
	r     *nar.Reader
	open  []directory
	top   nix.Hash
	block []byte
}

// directory is one whose entries are not all known yet.
type directory struct {
	name    string
	entries []entry
}

type entry struct {
	name string
	mode string
	hash nix.Hash
}

// node takes the next node of the archive.
func (s *summer) node(h nar.Header) error {
	e := entry{name: h.Name}
	switch h.Type {
	case nar.Directory:
		s.open = append(s.open, directory{name: h.Name})
		return nil
	case nar.Symlink:
		e.mode = modeSymlink
		sum := s.begin("blob", int64(len(h.Target)))
		io.WriteString(sum, h.Target)
		e.hash = nix.SumHash(s.algo, sum)
	default:
		e.mode = modeRegular
		if h.Executable {
			e.mode = modeExecutable
		}
		sum := s.begin("blob", h.Size)
		if _, err := io.CopyBuffer(sum, struct{ io.Reader }{s.r}, s.block); err != nil {
			return err
		}
		e.hash = nix.SumHash(s.algo, sum)
	}
	s.add(e)
	return nil
}

// add puts a finished node into its directory.
func (s *summer) add(e entry) {
	if len(s.open) == 0 {
		s.top = e.hash
		return
	}
	d := &s.open[len(s.open)-1]
	d.entries = append(d.entries, e)
}

// close finishes the directories that a node of the given depth is not in.
func (s *summer) close(depth int) {
	for len(s.open) > depth {
		d := s.open[len(s.open)-1]
		s.open = s.open[:len(s.open)-1]
		s.add(entry{name: d.name, mode: modeDirectory, hash: s.tree(d.entries)})
	}
}

// tree hashes a tree object. Git sorts as if the names of directories ended with
// a slash.
func (s *summer) tree(entries []entry) nix.Hash {
	key := func(e entry) string {
		if e.mode == modeDirectory {
			return e.name + "/"
		}
		return e.name
	}
	slices.SortFunc(entries, func(a, b entry) int { return bytes.Compare([]byte(key(a)), []byte(key(b))) })
	var text bytes.Buffer
	for _, e := range entries {
		fmt.Fprintf(&text, "%s %s\x00", e.mode, e.name)
		text.Write(e.hash.Bytes())
	}
	sum := s.begin("tree", int64(text.Len()))
	sum.Write(text.Bytes())
	return nix.SumHash(s.algo, sum)
}

// begin starts the hash of an object.
func (s *summer) begin(kind string, size int64) hash.Hash {
	sum := s.algo.New()
	io.WriteString(sum, kind+" "+strconv.FormatInt(size, 10)+"\x00")
	return sum
}
