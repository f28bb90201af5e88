package compare_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/kilnbuild/kiln/executor/compare"
)

// A tree is files by their path. The value of a file begins with what it is: "-"
// and its content, "x" and the content of an executable, "l" and the target of a
// link, "d", "p" for a fifo.
type tree map[string]string

func (tr tree) write(t testing.TB, top string) string {
	t.Helper()
	for name, what := range tr {
		p := filepath.Join(top, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		switch text := what[1:]; what[0] {
		case '-':
			err = os.WriteFile(p, []byte(text), 0o444)
		case 'x':
			err = os.WriteFile(p, []byte(text), 0o555)
		case 'l':
			err = os.Symlink(text, p)
		case 'd':
			err = os.MkdirAll(p, 0o755)
		case 'p':
			err = syscall.Mkfifo(p, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return top
}

func report(t *testing.T, old, new tree, limits compare.Limits) *compare.Report {
	t.Helper()
	dir := t.TempDir()
	r, err := compare.Trees(t.Context(), old.write(t, filepath.Join(dir, "old")), new.write(t, filepath.Join(dir, "new")), limits)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func text(t *testing.T, r *compare.Report) string {
	t.Helper()
	var b strings.Builder
	if err := r.Format(&b); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestTrees(t *testing.T) {
	long := strings.Repeat("0123456789abcde\n", 1<<15) // longer than a buffer
	for _, tt := range []struct {
		name     string
		old, new tree
		want     string
	}{
		{"the same", tree{"a": "-x", "b/c": "x", "l": "la"}, tree{"a": "-x", "b/c": "x", "l": "la"}, ""},
		{"empty directories", tree{"": "d"}, tree{"": "d"}, ""},
		{"top is a file", tree{"": "-abc"}, tree{"": "-abd"}, ".: content differs at byte 2 (line 1), 3 bytes\n"},
		{"top is a link", tree{"": "la"}, tree{"": "lb"}, ".: link target differs, \"a\" → \"b\"\n"},
		{"top is another type", tree{"": "d"}, tree{"": "-"}, ".: type differs, a directory → a file of 0 bytes\n"},
		{"a line", tree{"f": "-one\ntwo\nthree\n"}, tree{"f": "-one\ntwo\nthird\n"}, "f: content differs at byte 10 (line 3), 14 bytes\n"},
		{"a newline", tree{"f": "-one\n"}, tree{"f": "-one "}, "f: content differs at byte 3 (line 1), 4 bytes\n"},
		{"longer", tree{"f": "-one\n"}, tree{"f": "-one\ntwo"}, "f: content differs at byte 4 (line 2), 4 → 7 bytes\n"},
		{"from nothing", tree{"f": "-"}, tree{"f": "-x"}, "f: content differs at byte 0 (line 1), 0 → 1 bytes\n"},
		{"binary", tree{"f": "-a\n\x00\nb"}, tree{"f": "-a\n\x00\nc"}, "f: content differs at byte 4, 5 bytes\n"},
		{"binary only there", tree{"f": "-a\n\x00"}, tree{"f": "-a\nb"}, "f: content differs at byte 2, 3 bytes\n"},
		{"binary later", tree{"f": "-a\nb\x00"}, tree{"f": "-a\nc\x00"}, "f: content differs at byte 2 (line 2), 4 bytes\n"},
		{"far away", tree{"f": "-" + long + "x"}, tree{"f": "-" + long + "y"}, "f: content differs at byte 524288 (line 32769), 524289 bytes\n"},
		{"far away, binary before", tree{"f": "-\x00" + long + "x"}, tree{"f": "-\x00" + long}, "f: content differs at byte 524289, 524290 → 524289 bytes\n"},
		{"executable now", tree{"f": "-x"}, tree{"f": "xx"}, "f: mode differs, not executable → executable\n"},
		{"executable before", tree{"f": "xx"}, tree{"f": "-y"}, "f: mode differs, executable → not executable\nf: content differs at byte 0 (line 1), 1 bytes\n"},
		{"types", tree{"a": "-x", "b/c": "-x", "l": "-x"}, tree{"a/b": "-x", "b": "xx", "l": "la"}, "" +
			"a: type differs, a file of 1 bytes → a directory\n" +
			"b: type differs, a directory → an executable file of 1 bytes\n" +
			"l: type differs, a file of 1 bytes → a symbolic link\n"},
		{"fifos", tree{"a": "p", "b": "p"}, tree{"a": "p", "b": "-"}, "b: type differs, a special file → a file of 0 bytes\n"},
		{"only there", tree{"a": "-1", "b/x/y": "-", "k": "-", "z": "-"}, tree{"k": "-", "m/n": "-", "zz": "lq"}, "" +
			"a: missing, was a file of 1 bytes\n" +
			"b: missing, was a directory\n" +
			"m: extra, a directory\n" +
			"z: missing, was a file of 0 bytes\n" +
			"zz: extra, a symbolic link\n"},
		{"order of an archive", tree{"a/b": "-1", "a.c": "-1", "a-": "-1", "a/b0": "-1"}, tree{"a/b": "-2", "a.c": "-2", "a-": "-2", "a/b0": "-2"}, "" +
			"a/b: content differs at byte 0 (line 1), 1 bytes\n" +
			"a/b0: content differs at byte 0 (line 1), 1 bytes\n" +
			"a-: content differs at byte 0 (line 1), 1 bytes\n" +
			"a.c: content differs at byte 0 (line 1), 1 bytes\n"},
		{"up and down", tree{"a/b/c": "-", "a/d": "-", "e/f/g/h": "-", "i": "-"}, tree{"a/b/c": "-1", "a/d": "-1", "e/f/g/h": "-1", "i": "-1"}, "" +
			"a/b/c: content differs at byte 0 (line 1), 0 → 1 bytes\n" +
			"a/d: content differs at byte 0 (line 1), 0 → 1 bytes\n" +
			"e/f/g/h: content differs at byte 0 (line 1), 0 → 1 bytes\n" +
			"i: content differs at byte 0 (line 1), 0 → 1 bytes\n"},
		{"links are not followed", tree{"d/f": "-1", "l": "ld"}, tree{"d/f": "-1", "l": "l."}, "l: link target differs, \"d\" → \".\"\n"},
		{"hostile names", tree{"a\nb: content": "-", "\x1b[2J": "-", "\xff": "-", "-rf": "-", " sp ace": "-", "ü→": "-", "q\"": "-"}, tree{"": "d"}, "" +
			"\"\\x1b[2J\": missing, was a file of 0 bytes\n" +
			" sp ace: missing, was a file of 0 bytes\n" +
			"-rf: missing, was a file of 0 bytes\n" +
			"\"a\\nb: content\": missing, was a file of 0 bytes\n" +
			"\"q\\\"\": missing, was a file of 0 bytes\n" +
			"ü→: missing, was a file of 0 bytes\n" +
			"\"\\xff\": missing, was a file of 0 bytes\n"},
		{"hostile target", tree{"l": "l\x1b]0;x\a"}, tree{"l": "l../../etc"}, "l: link target differs, \"\\x1b]0;x\\a\" → \"../../etc\"\n"},
		{"gzip", tree{"f": "-\x1f\x8b\x08\x00\x01\x02\x03\x04\x02\x03rest"}, tree{"f": "-\x1f\x8b\x08\x00\x01\x03\x03\x04\x02\x03rest"},
			"f: content differs at byte 5, 14 bytes: the time in the header of gzip\n"},
		{"gzip, its content", tree{"f": "-\x1f\x8b\x08\x00\x01\x02\x03\x04\x02\x03rest"}, tree{"f": "-\x1f\x8b\x08\x00\x01\x02\x03\x04\x02\x03Rest"},
			"f: content differs at byte 10, 14 bytes\n"},
		{"bytecode", tree{"f": "-\xcb\x0d\r\n\x00\x00\x00\x00\x01\x02\x03\x04size"}, tree{"f": "-\xcb\x0d\r\n\x00\x00\x00\x00\x02\x02\x03\x04size"},
			"f: content differs at byte 8, 16 bytes: the time of the source in the header of Python bytecode\n"},
		{"bytecode with a hash", tree{"f": "-\xcb\x0d\r\n\x01\x00\x00\x00\x01\x02\x03\x04size"}, tree{"f": "-\xcb\x0d\r\n\x01\x00\x00\x00\x02\x02\x03\x04size"},
			"f: content differs at byte 8, 16 bytes\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := report(t, tt.old, tt.new, compare.Limits{})
			if diff := cmp.Diff(tt.want, text(t, r)); diff != "" {
				t.Errorf("report (-want +got):\n%s", diff)
			}
			if n := strings.Count(tt.want, "\n"); r.Total != n || len(r.Differences) != n {
				t.Errorf("%d differences, %d listed; want %d", r.Total, len(r.Differences), n)
			}
		})
	}
}

func TestJSON(t *testing.T) {
	r := report(t,
		tree{"a": "-one\n", "b": "xsame", "c": "lx", "d": "-"},
		tree{"a": "-", "b": "-same", "c": "ly", "e": "d"}, compare.Limits{})
	got, err := json.Marshal(r)
	if err != nil {
		t.Fatal(err)
	}
	want := `{"differences":[` +
		`{"path":"a","kind":"content","old":{"type":"regular","size":4},"new":{"type":"regular"},"first":{"offset":0,"line":1}},` +
		`{"path":"b","kind":"mode","old":{"type":"regular","size":4,"executable":true},"new":{"type":"regular","size":4}},` +
		`{"path":"c","kind":"link target","old":{"type":"symlink","target":"x"},"new":{"type":"symlink","target":"y"}},` +
		`{"path":"d","kind":"missing","old":{"type":"regular"}},` +
		`{"path":"e","kind":"extra","new":{"type":"directory"}}` +
		`],"total":5}`
	if diff := cmp.Diff(want, string(got)); diff != "" {
		t.Errorf("JSON (-want +got):\n%s", diff)
	}
	var back compare.Report
	if err := json.Unmarshal(got, &back); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(r, &back); diff != "" {
		t.Errorf("read back (-want +got):\n%s", diff)
	}
	if got, _ := json.Marshal(report(t, tree{"": "-"}, tree{"": "-"}, compare.Limits{})); string(got) != `{"differences":[],"total":0}` {
		t.Errorf("no differences are %s", got)
	}
}

func TestLimits(t *testing.T) {
	old, new := tree{}, tree{}
	for i := range 20 {
		old[fmt.Sprintf("%02d", i)] = "-a"
		new[fmt.Sprintf("%02d", i)] = "xb" // two differences each
	}
	for _, tt := range []struct {
		listed int
		last   string
	}{{3, "37 more differences"}, {39, "1 more difference"}, {40, "19: content differs at byte 0 (line 1), 1 bytes"}} {
		r := report(t, old, new, compare.Limits{Differences: tt.listed})
		if len(r.Differences) != tt.listed || r.Total != 40 {
			t.Errorf("with room for %d, %d of %d are listed", tt.listed, len(r.Differences), r.Total)
		}
		lines := strings.Split(strings.TrimSuffix(text(t, r), "\n"), "\n")
		if got := lines[len(lines)-1]; got != tt.last {
			t.Errorf("with room for %d, the last line is %q, want %q", tt.listed, got, tt.last)
		}
	}

	deep := t.TempDir()
	tree{"old/a/b/c/d": "-", "new/a/b/c/d": "-"}.write(t, deep)
	for depth, ok := range map[int]bool{0: true, 3: false, 4: true} {
		_, err := compare.Trees(t.Context(), filepath.Join(deep, "old"), filepath.Join(deep, "new"), compare.Limits{Depth: depth})
		if (err == nil) != ok || err != nil && !strings.Contains(err.Error(), "old/a/b/c: the tree is deeper") {
			t.Errorf("depth %d: %v", depth, err)
		}
	}
}

// TestDeepPaths goes where no path can be named.
func TestDeepPaths(t *testing.T) {
	dir := t.TempDir()
	name := strings.Repeat("n", 200)
	for i, last := range []string{"old", "new"} {
		root, err := os.OpenRoot(dir)
		if err != nil {
			t.Fatal(err)
		}
		at := last
		for range 60 {
			if err := root.Mkdir(at, 0o755); err != nil {
				t.Fatal(err)
			}
			below, err := root.OpenRoot(at)
			if err != nil {
				t.Fatal(err)
			}
			root.Close()
			root, at = below, name
		}
		if err := root.WriteFile("f", []byte{'a' + byte(i)}, 0o644); err != nil {
			t.Fatal(err)
		}
		root.Close()
	}
	r, err := compare.Trees(t.Context(), filepath.Join(dir, "old"), filepath.Join(dir, "new"), compare.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	if want := strings.Repeat(name+"/", 59) + "f"; r.Total != 1 || r.Differences[0].Path != want {
		t.Errorf("found %d differences", r.Total)
	}
}

func TestErrors(t *testing.T) {
	dir := tree{"a": "-", "b/c": "-"}.write(t, t.TempDir())
	a := filepath.Join(dir, "a")
	for _, tt := range []struct{ old, new, want string }{
		{filepath.Join(dir, "none"), a, "compare " + dir + "/none: no such file or directory"},
		{a, filepath.Join(dir, "none"), "compare " + dir + "/none: no such file or directory"},
		{a, filepath.Join(a, "none"), "compare " + dir + "/a/none: not a directory"},
	} {
		if _, err := compare.Trees(t.Context(), tt.old, tt.new, compare.Limits{}); err == nil || err.Error() != tt.want {
			t.Errorf("Trees(%s, %s): %v, want %s", tt.old, tt.new, err, tt.want)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := compare.Trees(ctx, dir, dir+"/b", compare.Limits{}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

// TestDescriptors wants that none stays open, whether it went well or not.
func TestDescriptors(t *testing.T) {
	open := func() int {
		list, err := os.ReadDir("/dev/fd")
		if err != nil {
			t.Skip("no list of open files here: ", err)
		}
		return len(list)
	}
	dir := t.TempDir()
	tree{"old/a/b/c": "-1", "old/l": "la", "new/a/b/c": "-2", "new/l": "lb"}.write(t, dir)
	old, new := filepath.Join(dir, "old"), filepath.Join(dir, "new")
	before := open()
	for depth := range 5 {
		_, _ = compare.Trees(t.Context(), old, new, compare.Limits{Depth: depth})
	}
	if after := open(); after != before {
		t.Errorf("%d files were open, now %d", before, after)
	}
}

func BenchmarkSmallFiles(b *testing.B) {
	dir := b.TempDir()
	files := tree{}
	for i := range 1000 {
		files[fmt.Sprintf("d%d/e%d/f%d", i%10, i%100, i)] = "-" + strings.Repeat("x", 4000)
	}
	old, new := files.write(b, filepath.Join(dir, "old")), files.write(b, filepath.Join(dir, "new"))
	b.ReportAllocs()
	for b.Loop() {
		if r, err := compare.Trees(b.Context(), old, new, compare.Limits{}); err != nil || r.Total > 0 {
			b.Fatal(r, err)
		}
	}
}

func BenchmarkLargeFile(b *testing.B) {
	dir := b.TempDir()
	content := bytes.Repeat([]byte("some text that is compared\n"), 64<<20/27)
	for _, name := range []string{"old", "new"} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o644); err != nil {
			b.Fatal(err)
		}
	}
	b.SetBytes(int64(len(content)))
	b.ReportAllocs()
	for b.Loop() {
		if r, err := compare.Trees(b.Context(), filepath.Join(dir, "old"), filepath.Join(dir, "new"), compare.Limits{}); err != nil || r.Total > 0 {
			b.Fatal(r, err)
		}
	}
}
