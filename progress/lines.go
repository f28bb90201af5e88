package progress

import (
	"bytes"
	"maps"
	"slices"

	"github.com/kilnbuild/kiln/nix"
)

// maxLine bounds how much of a line is kept until its end comes, in bytes. A
// longer one is shown as several.
const maxLine = 64 << 10

// lineSplitter makes whole lines of what builders print.
type lineSplitter struct {
	begun map[nix.StorePath][]byte // lines that have no end yet
}

// write gives the lines that p ends to take, without their ends. The slices are
// only lent.
func (s *lineSplitter) write(drv nix.StorePath, p []byte, take func(line []byte)) {
	rest := s.begun[drv]
	for len(p) > 0 {
		i := bytes.IndexByte(p, '\n')
		if i < 0 && len(rest)+len(p) < maxLine {
			s.begun[drv] = append(rest, p...)
			return
		}
		line, next := p, []byte(nil)
		if i >= 0 {
			line, next = p[:i], p[i+1:]
		}
		if len(rest) > 0 {
			line = append(rest, line...)
			rest = rest[:0]
		}
		take(line)
		p = next
	}
	if rest != nil {
		s.begun[drv] = rest[:0]
	}
}

// end gives the begun line of a builder that printed all that it will.
func (s *lineSplitter) end(drv nix.StorePath) []byte {
	rest := s.begun[drv]
	delete(s.begun, drv)
	return rest
}

// endAll ends the lines of all builders.
func (s *lineSplitter) endAll(take func(drv nix.StorePath, line []byte)) {
	for _, drv := range slices.Sorted(maps.Keys(s.begun)) {
		if rest := s.begun[drv]; len(rest) > 0 {
			take(drv, rest)
		}
	}
	clear(s.begun)
}
