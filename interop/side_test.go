//go:build linux

package interop

import (
	"bytes"
	"context"
	"maps"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kilnbuild/kiln/internal/testenv"
)

// commandLimit is how long a command may take; none needs a tenth of it.
const commandLimit = 2 * time.Minute

// A side is one of the two programs, with a store of its own.
type side struct {
	name    string   // "nix", "old" or "kiln"
	release *release // of real Nix; for kiln, the one that looks at its store
	program []string
	mark    string // between a derivation and its outputs on the command line
	group   string // build users, "" for an ordinary user
	scene   *testenv.Scene
	store   string // the root directory of the chroot store
}

// newSide makes a side in a scene; store is the name of its store there.
func newSide(t *testing.T, name, store string, scene *testenv.Scene, lane int) *side {
	t.Helper()
	s := &side{name: name, scene: scene, store: scene.Path(store), release: hostNix(t)}
	switch name {
	case "nix", "old":
		s.program, s.mark = []string{"nix-store", "--realise"}, "!"
	case "kiln":
		s.program, s.mark = []string{testenv.Kiln(t), "build"}, "^"
	}
	if testenv.Root() {
		s.group = groupName(name, lane)
	}
	return s
}

// options are the settings of every build, so that neither the machine's
// configuration nor a program's defaults make a difference.
func (s *side) options(t *testing.T, more map[string]string) []string {
	t.Helper()
	options := map[string]string{
		"sandbox":           "true",
		"sandbox-fallback":  "false",
		"sandbox-paths":     "/bin/sh=@busybox@",
		"build-users-group": s.group,
		"substituters":      "",
		"builders":          "",
		"cores":             "1",
		"max-jobs":          "2",
		"system-features":   "kiln-interop",
		"log-lines":         "10",
		"fsync-metadata":    "false",
	}
	maps.Copy(options, more)
	replace := strings.NewReplacer("@busybox@", visible(t, testenv.Busybox(t)), "@shared@", s.scene.Path("shared"))
	var words []string
	for _, name := range slices.Sorted(maps.Keys(options)) {
		words = append(words, "--option", name, replace.Replace(options[name]))
	}
	return words
}

// A target is a derivation and the outputs that are wanted of it, all if none
// is named.
type target struct {
	drv     string
	outputs []string
}

// build is the command that builds targets.
func (s *side) build(t *testing.T, options map[string]string, flags []string, targets ...target) *exec.Cmd {
	t.Helper()
	words := append(slices.Clone(s.program), "--store", s.store)
	words = append(words, s.options(t, options)...)
	words = append(words, flags...)
	for _, target := range targets {
		word := target.drv
		if len(target.outputs) > 0 {
			word += s.mark + strings.Join(target.outputs, ",")
		}
		words = append(words, word)
	}
	return s.command(words...)
}

// command is any command in the side's scene, in a session of its own.
func (s *side) command(words ...string) *exec.Cmd {
	if s.name == "kiln" {
		return sceneCommand(s.scene, words...)
	}
	return s.release.command(s.scene, words...)
}

// nix is a command of the Nix that looks at the side's store.
func (s *side) nix(words ...string) *exec.Cmd { return s.release.command(s.scene, words...) }

func sceneCommand(scene *testenv.Scene, words ...string) *exec.Cmd {
	cmd := exec.Command(words[0], words[1:]...)
	cmd.Env = scene.Env()
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	return cmd
}

// An outcome is what a command did.
type outcome struct {
	exit   int // -1 for a command that a signal ended
	stdout []string
	stderr string
}

var colours = regexp.MustCompile("\x1b\\[[0-9;]*[A-Za-z]")

// run runs a command to its end.
func run(t *testing.T, cmd *exec.Cmd) outcome {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), commandLimit)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })
	defer stop()
	err := cmd.Wait()
	if ctx.Err() != nil {
		t.Fatalf("%s did not end in %v:\n%s", cmd, commandLimit, stderr.String())
	}
	if _, ok := err.(*exec.ExitError); err != nil && !ok {
		t.Fatalf("%s: %v", cmd, err)
	}
	o := outcome{exit: cmd.ProcessState.ExitCode(), stderr: colours.ReplaceAllString(stderr.String(), "")}
	for line := range strings.Lines(stdout.String()) {
		o.stdout = append(o.stdout, strings.TrimSuffix(line, "\n"))
	}
	return o
}

// must runs a command that has to succeed and gives what it printed.
func must(t *testing.T, cmd *exec.Cmd) []string {
	t.Helper()
	o := run(t, cmd)
	if o.exit != 0 {
		t.Fatalf("%s: exit %d\n%s", cmd, o.exit, o.stderr)
	}
	return o.stdout
}

// copyStore copies a store that no program has open.
func copyStore(t *testing.T, from, to string) {
	t.Helper()
	if out, err := exec.Command("cp", "-a", from, to).CombinedOutput(); err != nil {
		t.Fatalf("copy store: %v: %s", err, out)
	}
}

// exists tells whether there is a file of any kind.
func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}
