package hook

import (
	"strings"
	"testing"
)

func TestTail(t *testing.T) {
	for _, tt := range []struct {
		max    int
		pieces []string
		want   string
	}{
		{10, nil, ""},
		{10, []string{"abc\n"}, "abc"},
		{10, []string{"abc\ndef\ng"}, "abc\ndef\ng"},
		{10, []string{"abc\n", "def\n", "ghi\n"}, "def\nghi"},
		{10, []string{"0123456789abcdef"}, "6789abcdef"},
		{10, []string{"01234567\n", "9\n", strings.Repeat("x", 8), "\nyz\n"}, "yz"},
		{3, strings.Split(strings.Repeat("ab\n", 100), ""), "ab"},
	} {
		tl := tail{max: tt.max}
		for _, p := range tt.pieces {
			if n, err := tl.Write([]byte(p)); n != len(p) || err != nil {
				t.Errorf("Write(%q) = %d, %v", p, n, err)
			}
		}
		if got := tl.String(); got != tt.want {
			t.Errorf("%q keeps %q, want %q", tt.pieces, got, tt.want)
		}
		if cap(tl.kept) > 8*tt.max {
			t.Errorf("%q takes %d bytes", tt.pieces, cap(tl.kept))
		}
	}
}

func TestHead(t *testing.T) {
	h := head{max: 5}
	for _, p := range []string{"abc", "", "de"} {
		h.Write([]byte(p))
	}
	if h.truncated || string(h.kept) != "abcde" {
		t.Errorf("kept %q, truncated %v", h.kept, h.truncated)
	}
	h.Write([]byte("f"))
	if !h.truncated || string(h.kept) != "abcde" {
		t.Errorf("kept %q, truncated %v", h.kept, h.truncated)
	}
}
