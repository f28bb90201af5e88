package build

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestLogTail(t *testing.T) {
	for _, c := range []struct {
		name   string
		max    int
		writes []string
		want   []string
	}{
		{"nothing", 3, nil, nil},
		{"fewer than the limit", 3, []string{"a\nb\n"}, []string{"a", "b"}},
		{"the last ones", 2, []string{"a\nb\nc\nd\n"}, []string{"c", "d"}},
		{"a line in pieces", 2, []string{"a", "b", "\nc"}, []string{"ab", "c"}},
		{"a progress bar", 2, []string{"10%\r20%\rdone\n"}, []string{"done"}},
		{"line ends of a terminal", 2, []string{"a\r\nb\r\n"}, []string{"a", "b"}},
		{"a carriage return at the end of a write", 2, []string{"a\r", "\nb\r", "c\n"}, []string{"a", "c"}},
		{"none asked for", 0, []string{"a\n"}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			tail := &logTail{max: c.max}
			for _, w := range c.writes {
				if n, err := tail.Write([]byte(w)); n != len(w) || err != nil {
					t.Fatalf("Write(%q) = %d, %v", w, n, err)
				}
			}
			if diff := cmp.Diff(c.want, tail.Lines()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestLogTailIsBounded(t *testing.T) {
	tail := &logTail{max: 2}
	for range 100 {
		tail.Write([]byte(strings.Repeat("x", 1<<16)))
	}
	if n := len(tail.Lines()[0]); n != maxTailLine {
		t.Errorf("a long line is kept with %d bytes, want %d", n, maxTailLine)
	}
}
