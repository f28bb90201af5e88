package sandbox

import (
	"bufio"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/kilnbuild/kiln/mountns"
)

// TestAttach makes files, directories and symlinks of the machine appear in a
// sandbox that is running.
func TestAttach(t *testing.T) {
	everyone(t, func(t *testing.T) {
		b := newBox(t, `
			echo ready
			while [ ! -e /data/store/last ]; do sleep 0.01; done
			cat /data/store/file /data/store/dir/inner
			readlink /data/store/link
			( echo x > /data/store/file ) 2>/dev/null && echo "a file can be written to"
			( echo x > /data/store/dir/new ) 2>/dev/null && echo "a directory can be written to"
			[ -e /data/store/many-99 ] || echo "one of many is missing"
			true`)
		b.Live = "/data/store"
		machine := filepath.Join(b.dir, "machine")
		must(t, os.MkdirAll(filepath.Join(machine, "dir"), 0o755))
		for name, text := range map[string]string{"file": "a file\n", "dir/inner": "a file in a directory\n", "last": ""} {
			must(t, os.WriteFile(filepath.Join(machine, name), []byte(text), 0o666))
		}
		must(t, os.Symlink("/some/where", filepath.Join(machine, "link")))

		p, r := b.start(t, newLauncher(t))
		lines := bufio.NewScanner(r)
		if !lines.Scan() || lines.Text() != "ready" {
			t.Fatalf("it printed %q", lines.Text())
		}
		attach := func(names ...string) error {
			var list []mountns.Attachment
			for _, n := range names {
				list = append(list, mountns.Attachment{Source: filepath.Join(machine, n), Name: n})
			}
			return p.Namespace().Attach(t.Context(), list...)
		}
		must(t, attach("file", "dir"))
		must(t, attach("link"))
		if err := attach("file"); !errors.Is(err, mountns.ErrAttached) {
			t.Errorf("attaching the same again gives %v, want ErrAttached", err)
		}
		if err := attach("none"); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("attaching what is not there gives %v", err)
		}
		if err := p.Namespace().Attach(t.Context(), mountns.Attachment{Source: machine, Name: "../escape"}); err == nil {
			t.Error("a name with a slash was accepted")
		}
		var many []mountns.Attachment
		for i := range 150 {
			kind := []string{"file", "dir", "link"}[i%3]
			many = append(many, mountns.Attachment{Source: filepath.Join(machine, kind), Name: "many-" + strconv.Itoa(i)})
		}
		// What came before a failure is taken back.
		if err := p.Namespace().Attach(t.Context(), append(many, mountns.Attachment{Source: "/none", Name: "none"})...); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("attaching many, and one that is not there, gives %v", err)
		}
		must(t, p.Namespace().Attach(t.Context(), many...))
		must(t, attach("last"))

		var got []string
		for lines.Scan() {
			got = append(got, lines.Text())
		}
		if want := "a file|a file in a directory|/some/where"; strings.Join(got, "|") != want {
			t.Errorf("it printed %q, want %q", strings.Join(got, "|"), want)
		}
		if exit := wait(t, p); exit.Code != 0 {
			t.Errorf("it ended with %v", exit)
		}
		if err := attach("file"); err == nil {
			t.Error("a sandbox that has ended can be attached to")
		}
		b.nothingLeft(t)
	})
}

// TestAttachFollowsNothing lets the program put a symlink in the place of what is
// to be attached.
func TestAttachFollowsNothing(t *testing.T) {
	everyone(t, func(t *testing.T) {
		b := newBox(t, `ln -s /build/trap /data/store/x; echo ready; while [ ! -e /data/store/last ]; do sleep 0.01; done; ls /build`)
		b.Live = "/data/store"
		p, r := b.start(t, newLauncher(t))
		lines := bufio.NewScanner(r)
		if !lines.Scan() || lines.Text() != "ready" {
			t.Fatalf("it printed %q", lines.Text())
		}
		source := filepath.Join(b.dir, "source")
		must(t, os.Mkdir(source, 0o755))
		if err := p.Namespace().Attach(t.Context(), mountns.Attachment{Source: source, Name: "x"}); !errors.Is(err, mountns.ErrAttached) {
			t.Errorf("attaching over a symlink gives %v", err)
		}
		must(t, p.Namespace().Attach(t.Context(), mountns.Attachment{Source: source, Name: "last"}))
		for lines.Scan() {
			t.Errorf("something is in the build directory: %s", lines.Text())
		}
		wait(t, p)
	})
}

func BenchmarkAttach(b *testing.B) {
	box := newBox(b, "sleep 1000")
	box.Live = "/data/store"
	p, _ := box.start(b, newLauncher(b))
	i := 0
	for b.Loop() {
		i++
		must(b, p.Namespace().Attach(b.Context(), mountns.Attachment{Source: box.build, Name: strconv.Itoa(i)}))
	}
	must(b, p.Kill())
	wait(b, p)
}
