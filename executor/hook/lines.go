package hook

import "bytes"

// lines cuts what is written to it into lines, and gives each to take, without
// its end. Of a line that is longer than max bytes, cut says what becomes of it.
// It has one line in memory at most.
type lines struct {
	max  int
	cut  cutting
	take func(line []byte) error // the slice is lent
	held []byte
	lost bool // the rest of the line that was given last is thrown away
}

// cutting says what becomes of a line that is too long.
type cutting uint8

const (
	wrap     cutting = iota // it is several lines
	truncate                // its end is thrown away
)

// Write fails when take does, with the same error.
func (l *lines) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		line, rest, ended := bytes.Cut(p, []byte{'\n'})
		for len(l.held)+len(line) > l.max {
			if l.lost {
				line = nil
				break
			}
			room := l.max - len(l.held)
			l.held = append(l.held, line[:room]...)
			line = line[room:]
			if err := l.give(); err != nil {
				return 0, err
			}
			l.lost = l.cut == truncate
		}
		switch {
		case l.lost:
			l.lost = !ended
		case ended && len(l.held) == 0:
			// Most lines come whole.
			if err := l.take(line); err != nil {
				return 0, err
			}
		default:
			l.held = append(l.held, line...)
			if ended {
				if err := l.give(); err != nil {
					return 0, err
				}
			}
		}
		p = rest
	}
	return n, nil
}

func (l *lines) give() error {
	err := l.take(l.held)
	l.held = l.held[:0]
	if cap(l.held) > 64<<10 {
		l.held = nil
	}
	return err
}

// flush gives a last line that has no end.
func (l *lines) flush() error {
	if len(l.held) == 0 {
		return nil
	}
	return l.give()
}
