package refscan

import "slices"

// Scanner is an io.Writer that notes which hash parts occur in what is written
// to it, also where an occurrence lies across several writes. Occurrences may
// overlap. It never fails. It is not safe for concurrent use.
type Scanner struct {
	index   *index
	found   []bool
	missing int

	// tail is the end of what was written, less than one hash. Nothing that
	// begins before it is open any more.
	tail    [2 * HashLen]byte
	tailLen int
}

// NewScanner makes a scanner for a set of hash parts. It fails if one of them is
// not HashLen characters of Nix's base32. A hash that is given twice counts
// once.
func NewScanner(hashes []string) (*Scanner, error) {
	x, err := newIndex(hashes)
	if err != nil {
		return nil, err
	}
	s := &Scanner{index: x, found: make([]bool, len(x.hashes))}
	s.Reset()
	return s, nil
}

// Reset forgets what was written and found. The set stays; making it is most of
// the cost of a short scan.
func (s *Scanner) Reset() {
	clear(s.found)
	s.missing = len(s.found)
	s.tailLen = 0
}

// Write scans p. It returns len(p) and no error.
func (s *Scanner) Write(p []byte) (int, error) {
	n := len(p)
	if s.missing == 0 || n == 0 {
		return n, nil
	}
	const most = HashLen - 1
	if s.tailLen > 0 {
		// Occurrences that begin in the tail end within the next 31 bytes.
		joint := s.tail[:s.tailLen+copy(s.tail[s.tailLen:], p[:min(n, most)])]
		s.scan(joint)
		if n < most {
			keep := min(len(joint), most)
			s.tailLen = copy(s.tail[:], joint[len(joint)-keep:])
			return n, nil
		}
	}
	s.scan(p)
	s.tailLen = copy(s.tail[:], p[n-min(n, most):])
	return n, nil
}

func (s *Scanner) scan(p []byte) {
	for pos := 0; s.missing > 0; pos++ {
		var number int
		if pos, number = s.index.next(p, pos); number < 0 {
			return
		}
		if !s.found[number] {
			s.found[number] = true
			s.missing--
		}
	}
}

// Found gives the hash parts that have occurred so far, sorted.
func (s *Scanner) Found() []string {
	found := make([]string, 0, len(s.found)-s.missing)
	for number, ok := range s.found {
		if ok {
			found = append(found, s.index.hashes[number])
		}
	}
	slices.Sort(found)
	return found
}
