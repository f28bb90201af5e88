package local

import (
	"bytes"
	stdbzip2 "compress/bzip2"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/store"
)

const drvPath nix.StorePath = "33333333333333333333333333333333-x.drv"

func readLog(t *testing.T, s *Store, drv nix.StorePath) string {
	t.Helper()
	r, err := s.BuildLog(t.Context(), drv)
	if err != nil {
		t.Error(err)
		return ""
	}
	text, err := io.ReadAll(r)
	if err := errors.Join(err, r.Close()); err != nil {
		t.Error(err)
	}
	return string(text)
}

func writeLog(t testing.TB, s *Store, drv nix.StorePath, text string) {
	t.Helper()
	w, err := s.CreateLog(drv)
	if err != nil {
		t.Fatal(err)
	}
	_, err = w.Write([]byte(text))
	if err := errors.Join(err, w.Close()); err != nil {
		t.Fatal(err)
	}
}

func TestLogs(t *testing.T) {
	long := strings.Repeat("a line of a log\n", 50_000)
	for _, compress := range []bool{true, false} {
		t.Run(fmt.Sprintf("compress=%t", compress), func(t *testing.T) {
			o := options(t, tempDir(t))
			o.CompressLogs = compress
			s := open(t, o)
			name := filepath.Join(o.LogDir, "drvs/33", string(drvPath[2:]))
			kept, other := name, name+".bz2"
			if compress {
				kept, other = other, kept
			}
			// A log for each size, each in the place of the one before.
			for _, text := range []string{"", "short\n", long, "\x00\xff", "short again\n"} {
				w, err := s.CreateLog(drvPath)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := w.Write([]byte(text)); err != nil {
					t.Fatal(err)
				}
				if text != "" {
					if got := readLog(t, s, drvPath); got != text {
						t.Errorf("while it is written the log is %.20q, want %.20q", got, text)
					}
				}
				if err := w.Close(); err != nil {
					t.Fatal(err)
				}
				s.logs.wait()
				if !exists(kept) || exists(other) {
					t.Errorf("%s exists: %t, %s exists: %t", kept, exists(kept), other, exists(other))
				}
				if got := readLog(t, s, drvPath); got != text {
					t.Errorf("the log is %.20q of %d bytes, want %.20q of %d", got, len(got), text, len(text))
				}
				if info, err := os.Stat(kept); err != nil || info.Mode() != 0o644 {
					t.Errorf("log file: %v, %v", info, err)
				}
				if compress {
					data, err := os.ReadFile(kept)
					if err != nil {
						t.Fatal(err)
					}
					if plain, err := io.ReadAll(stdbzip2.NewReader(bytes.NewReader(data))); err != nil || string(plain) != text {
						t.Errorf("the standard library reads %d bytes of it, %v", len(plain), err)
					}
				}
			}
		})
	}
}

// A derivation that is built again, and at once.
func TestLogsInQuickSuccession(t *testing.T) {
	s := newStore(t)
	for i := range 100 {
		writeLog(t, s, drvPath, strings.Repeat("text\n", i*97%5000)+fmt.Sprint(i))
	}
	s.logs.wait()
	if got := readLog(t, s, drvPath); !strings.HasSuffix(got, "99") {
		t.Errorf("the log is %.20q…, not the last one", got)
	}
	if left := logNames(t, s); len(left) != 1 {
		t.Errorf("logs: %v", left)
	}
}

// Two processes that build the same derivation.
func TestLogsOfTwoProcesses(t *testing.T) {
	root := tempDir(t)
	a, b := open(t, options(t, root)), open(t, options(t, root))
	a.opts.Warn, b.opts.Warn = func(error) {}, func(error) {} // they are in each other's way
	for range 50 {
		writeLog(t, a, drvPath, strings.Repeat("a\n", 10_000))
		writeLog(t, b, drvPath, "b\n")
	}
	a.logs.wait()
	b.logs.wait()
	if got := readLog(t, a, drvPath); got == "" || strings.Trim(got, "a\n") != "" && strings.Trim(got, "b\n") != "" {
		t.Errorf("the log is %.20q…, neither of the two", got)
	}
}

// Close waits for the logs.
func TestCloseCompressesLogs(t *testing.T) {
	s := newStore(t)
	s.logs.patience = time.Minute // the machine may be busy
	for i := range 20 {
		drv := nix.StorePath(fmt.Sprintf("%s-%d.drv", strings.Repeat("4", 32), i))
		writeLog(t, s, drv, strings.Repeat("text\n", 1000*i))
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for _, name := range logNames(t, s) {
		if !strings.HasSuffix(name, ".bz2") {
			t.Errorf("not compressed: %s", name)
		}
	}
}

func TestLogLayouts(t *testing.T) {
	s := newStore(t)
	base := string(drvPath)
	for _, test := range []struct {
		file, content, want string
	}{
		{base + ".bz2", emptyLog, ""},
		{base, "whole name", "whole name"},
		{base[:2] + "/" + base[2:] + ".bz2", "", ""},
		{base[:2] + "/" + base[2:], "split name", "split name"},
	} {
		writeFiles(t, s.layout.log+"/drvs", map[string]string{test.file: test.content})
		if got := readLog(t, s, drvPath); got != test.want {
			t.Errorf("with %s: %q, want %q", test.file, got, test.want)
		}
	}
	if err := os.RemoveAll(s.layout.log); err != nil {
		t.Fatal(err)
	}
	for _, drv := range []nix.StorePath{"", "../../etc/passwd", "x"} {
		if _, err := s.BuildLog(t.Context(), drv); err == nil || errors.Is(err, store.ErrNotFound) {
			t.Errorf("log of %q: %v", drv, err)
		}
		if _, err := s.CreateLog(drv); err == nil {
			t.Errorf("log of %q was created", drv)
		}
	}
}

func TestCompressionFails(t *testing.T) {
	o := options(t, tempDir(t))
	var warned error
	o.Warn = func(err error) { warned = err }
	s := open(t, o)
	w, err := s.CreateLog(drvPath)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(w, "text")
	if err := os.MkdirAll(w.path+".bz2/x", 0o755); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	s.logs.wait()
	if warned == nil || !strings.Contains(warned.Error(), w.path) {
		t.Errorf("warning %v, want one that names the log", warned)
	}
	if got := readLog(t, s, drvPath); got != "text\n" {
		t.Errorf("the log is %q", got)
	}
	if err := os.RemoveAll(w.path + ".bz2"); err != nil {
		t.Error(err)
	}
}

func BenchmarkLog(b *testing.B) {
	for _, size := range []int{0, 100, 2000, 100_000} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			s := open(b, options(b, benchDir(b)))
			text := strings.Repeat("compiling a file of a program\n", size/30)
			for b.Loop() {
				writeLog(b, s, drvPath, text)
				s.logs.wait()
			}
		})
	}
}

// Old logs go, in whatever form, and none that is being written.
func TestRemoveLogs(t *testing.T) {
	o := options(t, tempDir(t))
	s := open(t, o)
	drv := func(digit string) nix.StorePath { return nix.StorePath(strings.Repeat(digit, 32) + "-x.drv") }
	for _, digit := range []string{"1", "2"} {
		writeLog(t, s, drv(digit), "a log")
	}
	o.CompressLogs = false
	plain := open(t, o)
	writeLog(t, plain, drv("4"), "a log")
	running, err := plain.CreateLog(drv("5"))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil { // so that all that is to be compressed is
		t.Fatal(err)
	}
	old := time.Now().Add(-48 * time.Hour)
	logs := func() map[string]bool {
		found := make(map[string]bool)
		for _, d := range []string{"11", "22", "44", "55"} {
			for _, name := range names(t, filepath.Join(o.LogDir, "drvs", d)) {
				found[d+name[:1]+filepath.Ext(name)] = true
				if d != "22" {
					if err := os.Chtimes(filepath.Join(o.LogDir, "drvs", d, name), old, old); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
		return found
	}
	if found := logs(); len(found) != 4 || !found["111.bz2"] || !found["444.drv"] {
		t.Fatalf("logs: %v", found)
	}
	n, bytes, err := plain.RemoveLogs(t.Context(), time.Now().Add(-24*time.Hour))
	if n != 2 || bytes == 0 || err != nil {
		t.Errorf("%d logs and %d bytes were removed, %v", n, bytes, err)
	}
	if found := logs(); len(found) != 2 || !found["222.bz2"] || !found["555.drv"] {
		t.Errorf("left: %v", found)
	}
	if err := running.Close(); err != nil {
		t.Error(err)
	}
}
