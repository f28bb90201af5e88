package main

import (
	"bytes"
	"encoding/xml"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/kilnbuild/kiln/internal/testenv"
)

func TestMain(m *testing.M) { os.Exit(testenv.Main(m)) }

// texts reads a picture, and gives the lines of text on it.
func texts(t *testing.T, svg []byte) []string {
	t.Helper()
	d := xml.NewDecoder(bytes.NewReader(svg))
	d.Strict = true
	var lines []string
	for depth := 0; ; {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			return lines
		}
		if err != nil {
			t.Fatalf("not well-formed: %v:\n%s", err, svg)
		}
		switch token := token.(type) {
		case xml.StartElement:
			if depth == 0 && (token.Name.Local != "svg" || token.Name.Space != "http://www.w3.org/2000/svg") {
				t.Fatalf("the first element is %v", token.Name)
			}
			depth++
		case xml.EndElement:
			depth--
		case xml.CharData:
			if s := strings.TrimSpace(string(token)); s != "" {
				lines = append(lines, s)
			}
		}
	}
}

// TestRecord records a program that prints all sorts of things.
func TestRecord(t *testing.T) {
	defer goleak.VerifyNone(t)
	const script = `
test -t 0 && test -t 1 && test -t 2 || exit 9
stty size
printf 'first <&>"\033[31mred\033[0m \033[44mon blue\033[0m \033[38;5;208morange\033[38;2;1;2;200mdirect\033[0m\n'
printf '● ○ ✓ one\033[?2026l\r\033[2K\033[?2026h● ○ ✓ ✗ two\033[?2026l\r\033[Klast'
printf '\377\376 \001\002 \302\233'
exit 3`
	rec, err := record(exec.Command("/bin/sh", "-c", script), 60, 5)
	if err != nil {
		t.Fatal(err)
	}
	if rec.exit != 3 {
		t.Errorf("the program exits with %d, want 3", rec.exit)
	}
	if text := rec.busiest().String(); !strings.Contains(text, "✗ two") {
		t.Errorf("the busiest moment is\n%s", text)
	}
	s := rec.end()
	if text := s.String(); !strings.HasPrefix(text, "5 60\nfirst <&>\"red on blue orangedirect\nlast") {
		t.Errorf("the terminal shows\n%s", text)
	}
	svg := s.svg("a <title>")
	lines := strings.Join(texts(t, svg), "\n")
	for _, want := range []string{"a <title>", "first <&>\"", "red", "on blue"} {
		if !strings.Contains(lines, want) {
			t.Errorf("%q is not on the picture:\n%s", want, lines)
		}
	}
	for _, want := range []string{`fill="` + palette[1] + `">red<`, `fill="#ff8700">orange<`, `fill="#0102c8">direct<`, `fill="` + palette[4] + `"/>`} {
		if !bytes.Contains(svg, []byte(want)) {
			t.Errorf("there is no %q on the picture:\n%s", want, svg)
		}
	}
}

// TestTooMuch wants that a program that does not stop printing is stopped.
func TestTooMuch(t *testing.T) {
	defer goleak.VerifyNone(t)
	if _, err := record(exec.Command("/bin/sh", "-c", "exec yes"), 80, 24); err == nil || !strings.Contains(err.Error(), "more than") {
		t.Errorf("endless output gives the error %v", err)
	}
}

// TestWrite makes all files with a real kiln, in less time than `make
// screenshots` takes for it.
func TestWrite(t *testing.T) {
	testenv.Sandbox(t)
	testenv.Busybox(t)
	scene := testenv.NewScene(t, "")
	t.Setenv("TMPDIR", scene.Tmp())
	dir := scene.Mkdir("pictures")
	if err := write(t.Context(), testenv.Kiln(t), dir, 10*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	check(t, dir)
}

// TestCommitted looks at the files that are part of the documentation.
func TestCommitted(t *testing.T) {
	root, err := testenv.ModuleRoot()
	if err != nil {
		t.Fatal(err)
	}
	check(t, filepath.Join(root, "docs"))
	page, err := os.ReadFile(filepath.Join(root, "docs", "terminal.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, scene := range scenes {
		if !bytes.Contains(page, []byte("("+scene.picture+")")) {
			t.Errorf("docs/terminal.md does not show %s", scene.picture)
		}
	}
}

// check looks at the files in a directory.
func check(t *testing.T, dir string) {
	t.Helper()
	for _, scene := range scenes {
		svg, err := os.ReadFile(filepath.Join(dir, scene.picture))
		if err != nil {
			t.Fatal(err)
		}
		lines := strings.Join(texts(t, svg), "\n")
		for _, want := range []string{"kiln build", "workshop", "waiting"} {
			if !strings.Contains(lines, want) {
				t.Errorf("%s does not show %q:\n%s", scene.picture, want, lines)
			}
		}
		if strings.Contains(lines, "FAIL: test_cone_10") != scene.fails {
			t.Errorf("%s: does a builder fail? It should be %v:\n%s", scene.picture, scene.fails, lines)
		}
	}
	text, err := os.ReadFile(filepath.Join(dir, "terminal.txt"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"in the middle:\n", "at the end:\n", "✓ ovens-0.9", "✗ thermometer-3.0", "✓ 9 built"} {
		if !bytes.Contains(text, []byte(want)) {
			t.Errorf("terminal.txt does not have %q:\n%s", want, text)
		}
	}
}
