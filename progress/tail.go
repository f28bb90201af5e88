package progress

import "bytes"

// logTail keeps the end of what a builder printed.
type logTail struct {
	buf []byte
	cut bool // there was more before it
}

// tailSize is how much is kept at least, in bytes. Twice as much may be.
const tailSize = 8 << 10

func (t *logTail) write(p []byte) {
	if len(p) >= tailSize {
		t.cut = t.cut || len(t.buf) > 0 || len(p) > tailSize
		t.buf = append(t.buf[:0], p[len(p)-tailSize:]...)
		return
	}
	if len(t.buf)+len(p) > 2*tailSize {
		t.buf = t.buf[:copy(t.buf, t.buf[len(t.buf)-tailSize:])]
		t.cut = true
	}
	t.buf = append(t.buf, p...)
}

// last gives the last line that has something on it. The slice is the tail's.
func (t *logTail) last() []byte {
	text := bytes.TrimRight(t.buf, " \t\r\n")
	return text[bytes.LastIndexByte(text, '\n')+1:]
}

// lines gives the last n lines, or as many as there are. They are the tail's.
func (t *logTail) lines(n int) [][]byte {
	text := bytes.TrimRight(t.buf, "\r\n")
	if len(text) == 0 {
		return nil
	}
	lines := bytes.Split(text, []byte("\n"))
	if t.cut && len(lines) > 1 {
		lines = lines[1:] // it has lost its beginning
	}
	return lines[max(0, len(lines)-n):]
}
