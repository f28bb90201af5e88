package hook

import (
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// cutLines writes text in pieces of the given size.
func cutLines(l *lines, text string, piece int) []string {
	var got []string
	l.take = func(line []byte) error {
		got = append(got, string(line))
		return nil
	}
	for len(text) > 0 {
		n := min(piece, len(text))
		l.Write([]byte(text[:n]))
		text = text[n:]
	}
	l.flush()
	return got
}

var lineTexts = []struct {
	text      string
	wrap, cut []string // at 4 bytes
}{
	{"", nil, nil},
	{"\n", []string{""}, []string{""}},
	{"a\n\nb", []string{"a", "", "b"}, []string{"a", "", "b"}},
	{"abcd\nabcd", []string{"abcd", "abcd"}, []string{"abcd", "abcd"}},
	{"abcde\nf\n", []string{"abcd", "e", "f"}, []string{"abcd", "f"}},
	{"abcdefghij\n\nk", []string{"abcd", "efgh", "ij", "", "k"}, []string{"abcd", "", "k"}},
	{"abcdefgh", []string{"abcd", "efgh"}, []string{"abcd"}},
	{"a\r\nb\x00\n", []string{"a\r", "b\x00"}, []string{"a\r", "b\x00"}},
}

func TestLines(t *testing.T) {
	for _, tt := range lineTexts {
		for piece := 1; piece <= len(tt.text)+1; piece++ {
			if diff := cmp.Diff(tt.wrap, cutLines(&lines{max: 4}, tt.text, piece)); diff != "" {
				t.Errorf("%q in pieces of %d (-want +got):\n%s", tt.text, piece, diff)
			}
			if diff := cmp.Diff(tt.cut, cutLines(&lines{max: 4, cut: truncate}, tt.text, piece)); diff != "" {
				t.Errorf("%q in pieces of %d, truncated (-want +got):\n%s", tt.text, piece, diff)
			}
		}
	}
}

func TestLinesError(t *testing.T) {
	for _, text := range []string{"a\n", "abcde"} {
		l := lines{max: 4, take: func([]byte) error { return io.ErrShortWrite }}
		if _, err := l.Write([]byte(text)); !errors.Is(err, io.ErrShortWrite) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// FuzzLines wants that how the text comes in pieces makes no difference, and that
// nothing is lost where lines are wrapped.
func FuzzLines(f *testing.F) {
	for _, tt := range lineTexts {
		f.Add(tt.text, uint8(4), uint8(3))
	}
	f.Fuzz(func(t *testing.T, text string, most, piece uint8) {
		size := max(int(most), 1)
		for _, c := range []cutting{wrap, truncate} {
			whole := cutLines(&lines{max: size, cut: c}, text, len(text)+1)
			if diff := cmp.Diff(whole, cutLines(&lines{max: size, cut: c}, text, max(int(piece), 1))); diff != "" {
				t.Fatalf("whole and in pieces differ:\n%s", diff)
			}
			for _, line := range whole {
				if len(line) > size || strings.Contains(line, "\n") {
					t.Fatalf("%q is no line", line)
				}
			}
			if joined := strings.Join(whole, ""); c == wrap && joined != strings.ReplaceAll(text, "\n", "") {
				t.Fatalf("%q became %q", text, joined)
			}
		}
	})
}
