package compare

import (
	"bytes"
	"fmt"

	"github.com/kilnbuild/kiln/internal/dirfd"
)

// regular compares two regular files.
func (w *walk) regular(names [2]string) error {
	var fds [2]int
	for i := range w.sides {
		s := &w.sides[i]
		fd, err := dirfd.OpenFile(s.dir(), names[i])
		if err != nil {
			return w.failed(i, err)
		}
		defer dirfd.Close(fd)
		if err := dirfd.Fstat(fd, &s.stat); err != nil {
			return w.failed(i, err)
		}
		if s.stat.Type() != dirfd.Regular {
			return w.failed(i, errType)
		}
		fds[i] = fd
	}
	old, new := w.sides[0].file(), w.sides[1].file()
	if old.Executable != new.Executable {
		w.add(Difference{Kind: Mode, Old: old, New: new})
	}
	first, note, err := w.content(fds)
	if err == nil && first != nil {
		w.add(Difference{Kind: Content, Old: old, New: new, First: first, Note: note})
	}
	return err
}

// content finds where the contents of two open files part, nil when they do not.
func (w *walk) content(fds [2]int) (*Position, string, error) {
	at := Position{Line: 1}
	for {
		if err := w.ctx.Err(); err != nil {
			return nil, "", fmt.Errorf("compare %s: %w", w.sides[0].top, err)
		}
		var parts [2][]byte
		for i, fd := range fds {
			n, err := fill(fd, w.sides[i].buf)
			if err != nil {
				return nil, "", w.failed(i, err)
			}
			parts[i] = w.sides[i].buf[:n]
		}
		old, new := parts[0], parts[1]
		if !bytes.Equal(old, new) {
			same := common(old, new)
			if at.Line > 0 {
				at.Line += int64(bytes.Count(old[:same], newline))
			}
			if binary(old[:min(len(old), same+1)]) || binary(new[:min(len(new), same+1)]) {
				at.Line = 0
			}
			note := ""
			if at.Offset == 0 {
				note = known(old, new, same)
			}
			at.Offset += int64(same)
			return &at, note, nil
		}
		if len(old) < len(w.sides[0].buf) {
			return nil, "", nil
		}
		at.Offset += int64(len(old))
		if at.Line > 0 {
			if at.Line += int64(bytes.Count(old, newline)); binary(old) {
				at.Line = 0
			}
		}
	}
}

var newline = []byte("\n")

// binary tells whether there is a byte that text does not have.
func binary(p []byte) bool { return bytes.IndexByte(p, 0) >= 0 }

// fill reads until buf is full or the file ends.
func fill(fd int, buf []byte) (n int, err error) {
	for n < len(buf) {
		m, err := dirfd.Read(fd, buf[n:])
		if err != nil || m == 0 {
			return n, err
		}
		n += m
	}
	return n, nil
}

// common is the number of bytes that a and b begin with alike.
func common(a, b []byte) int {
	const step = 512
	n := min(len(a), len(b))
	i := 0
	for i+step <= n && bytes.Equal(a[i:i+step], b[i:i+step]) {
		i += step
	}
	for i < n && a[i] == b[i] {
		i++
	}
	return i
}

// known says what the first byte that differs belongs to, in the beginnings of
// two files. It speaks of times only: those are what makes builds differ that
// are the same in all that matters.
func known(old, new []byte, at int) string {
	size := min(len(old), len(new))
	switch {
	// RFC 1952: magic, method deflate, flags, and the time in bytes 4 to 7.
	case at >= 4 && at < 8 && size >= 10 && bytes.HasPrefix(old, []byte("\x1f\x8b\x08")):
		return "the time in the header of gzip"
	// PEP 552: two bytes of version and CR LF, flags that are 0 when the source is
	// known by its time, and that time in bytes 8 to 11.
	case at >= 8 && at < 12 && size >= 16 && bytes.Equal(old[2:8], []byte("\r\n\x00\x00\x00\x00")):
		return "the time of the source in the header of Python bytecode"
	}
	return ""
}
