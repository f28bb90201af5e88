package hook

import "bytes"

// head keeps the beginning of what is written to it.
type head struct {
	max       int // bytes
	kept      []byte
	truncated bool
}

func (h *head) Write(p []byte) (int, error) {
	n := min(len(p), h.max-len(h.kept))
	h.kept = append(h.kept, p[:n]...)
	h.truncated = h.truncated || n < len(p)
	return len(p), nil
}

// tail keeps the end of what is written to it.
type tail struct {
	max  int // bytes
	kept []byte
	cut  bool
}

func (t *tail) Write(p []byte) (int, error) {
	n := len(p)
	if len(p) > t.max {
		p, t.cut = p[len(p)-t.max:], true
	}
	// At most twice what is kept, lest every small piece moves all of it.
	if len(t.kept)+len(p) > 2*t.max {
		t.kept, t.cut = append(t.kept[:0], t.kept[len(t.kept)-t.max:]...), true
	}
	t.kept = append(t.kept, p...)
	return n, nil
}

// String is the end, from the beginning of a line if something is missing before
// it, without the last line end.
func (t *tail) String() string {
	text, cut := t.kept, t.cut
	if over := len(text) - t.max; over > 0 {
		text, cut = text[over:], true
	}
	if i := bytes.IndexByte(text, '\n'); cut && i >= 0 && i+1 < len(text) {
		text = text[i+1:]
	}
	return string(bytes.TrimRight(text, "\r\n"))
}
