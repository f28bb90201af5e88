package local

import (
	"bytes"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/kilnbuild/kiln/nix"
)

// A file with temporary roots is read as Nix reads it: what has an end and is a path of
// the store counts.
func FuzzParseTempRoots(f *testing.F) {
	path := "/nix/store/" + strings.Repeat("a", 32) + "-x"
	for _, seed := range []string{"", path + "\x00", path + "\x00" + path, path + "\x00/nix/store/x\x00\x00" + path + "-y\x00", "\x00\x00\x00", path + "/bin\x00"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		paths, bad, err := parseTempRoots(nix.DefaultStoreDir, data)
		if got, want := len(paths)+bad, bytes.Count(data, []byte{0}); got != want {
			t.Errorf("%d records, want %d", got, want)
		}
		if (bad > 0) != (err != nil) {
			t.Errorf("%d are none: %v", bad, err)
		}
		var again []byte
		for _, p := range paths {
			again = append(append(again, nix.DefaultStoreDir.Join(p)...), 0)
		}
		same, bad, err := parseTempRoots(nix.DefaultStoreDir, again)
		if d := cmp.Diff(paths, same); d != "" || bad > 0 || err != nil {
			t.Errorf("read again: %d, %v (-want +got):\n%s", bad, err, d)
		}
	})
}

// Whatever a collector is told, it answers each line, and takes what is a path of the
// store for a root.
func FuzzHearRoots(f *testing.F) {
	path := "/nix/store/" + strings.Repeat("a", 32) + "-x"
	for _, seed := range []string{"", path + "\n", path + "\n\n" + path + "-y\n" + path, "x\n", path + "/bin\n", path + "\r\n", strings.Repeat("x", maxRootLine) + "\n" + path + "\n"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var answers strings.Builder
		roots := 0
		err := hearRoots(readWriter{bytes.NewReader(data), &answers}, nix.DefaultStoreDir, func(p nix.StorePath) {
			if _, err := nix.ParseStorePath(string(p)); err != nil {
				t.Error(err)
			}
			roots++
		})
		lines := 0
		for line := range bytes.Lines(data) {
			if len(line) > maxRootLine || line[len(line)-1] != '\n' {
				break
			}
			lines++
		}
		if answers.String() != strings.Repeat("1", lines) || roots > lines || roots < lines && err == nil {
			t.Errorf("%q for %d lines, %d roots, %v", answers.String(), lines, roots, err)
		}
	})
}

// readWriter is a connection of both halves.
type readWriter struct {
	io.Reader
	io.Writer
}
