//go:build linux

package interop

import (
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/kilnbuild/kiln/internal/testenv"
)

// TestExports has each of kiln and real Nix read what the other one exports, and both make
// the same content-addressed objects.
func TestExports(t *testing.T) {
	needs(t)
	scene := newScene(t)
	kiln := testenv.Kiln(t)
	here, there, back := scene.Path("here"), scene.Path("there"), scene.Path("back")
	host := hostNix(t)
	text := `builtins.toFile "top" "${builtins.toFile "dep" "a dependency"} and more"`
	top := strings.Trim(must(t, host.command(scene, "nix-instantiate", "--store", here, "--eval", "--read-write-mode", "-E", text))[0], `"`)
	piped := func(from, to []string) {
		t.Helper()
		file, err := os.Create(scene.Path("export"))
		if err != nil {
			t.Fatal(err)
		}
		cmd := sceneCommand(scene, from...)
		cmd.Stdout = file
		if err := cmd.Run(); err != nil {
			t.Fatalf("%s: %v", cmd, err)
		}
		if _, err := file.Seek(0, 0); err != nil {
			t.Fatal(err)
		}
		cmd = sceneCommand(scene, to...)
		cmd.Stdin = file
		out := must(t, cmd)
		if err := file.Close(); err != nil {
			t.Error(err)
		}
		if len(out) != 2 || out[1] != top {
			t.Errorf("%s: imported %q, want %s last", cmd, out, top)
		}
	}
	closure := must(t, host.command(scene, "nix-store", "--store", here, "--query", "--requisites", top))
	piped([]string{kiln, "store", "export", "--store", here, "--recursive", top}, []string{"nix-store", "--store", there, "--import"})
	piped(append([]string{"nix-store", "--store", there, "--export"}, closure...), []string{kiln, "store", "import", "--store", back})
	must(t, host.command(scene, "nix-store", "--store", back, "--verify", "--check-contents"))

	rewrote := regexp.MustCompile(`rewrote '[^']*' to '[^']*'`)
	became := func(o outcome) []string {
		t.Helper()
		lines := rewrote.FindAllString(strings.Join(o.stdout, "\n")+o.stderr, -1)
		if o.exit != 0 || len(lines) != 1 {
			t.Fatalf("exit %d; it does not say what became of it: %q\n%s", o.exit, o.stdout, o.stderr)
		}
		return lines
	}
	ours := became(run(t, sceneCommand(scene, kiln, "store", "make-content-addressed", "--store", back, top)))
	theirs := became(run(t, host.command(scene, "nix", "store", "make-content-addressed", "--store", here, top)))
	if !slices.Equal(ours, theirs) {
		t.Errorf("kiln: %q\nNix:  %q", ours, theirs)
	}
	must(t, host.command(scene, "nix-store", "--store", back, "--verify", "--check-contents"))

	for _, words := range [][]string{{"ping"}, {"info"}, {"info", top}, {"ping", "--json"}} {
		if out := must(t, sceneCommand(scene, append([]string{kiln, "store", words[0], "--store", back}, words[1:]...)...)); len(out) == 0 {
			t.Errorf("kiln store %q says nothing", words)
		}
	}
}
