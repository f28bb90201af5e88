//go:build linux

package interop

import (
	"bytes"
	"compress/bzip2"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kilnbuild/kiln/internal/testenv"
)

// A snapshot is what is in a store, as real Nix and the file system tell it.
type snapshot struct {
	objects map[string]object   // by store path
	files   map[string][]string // a line for each file of each object
	outputs map[string][]string // of each derivation
	logs    map[string]string   // by derivation
	// realisations are what Nix tells of the outputs of derivations whose files do
	// not have all their paths, by derivation, or of all of them.
	realisations map[string]string
	strays       []string // names in the store directory that are no valid objects
	state        []string // see stateFiles
	kept         []string // what a failed build left on purpose, a text for each tree
}

// An object is what Nix says about a valid path.
type object struct {
	NarHash          string
	NarSize          int64
	References       []string
	Deriver          string
	Ultimate         bool
	CA               string
	Signatures       []string
	RegistrationTime int64
}

// pathInfos asks real Nix about every valid path of a store.
func pathInfos(t *testing.T, scene *testenv.Scene, store string) map[string]object {
	t.Helper()
	return hostNix(t).pathInfos(t, scene, store)
}

func (r *release) pathInfos(t *testing.T, scene *testenv.Scene, store string) map[string]object {
	t.Helper()
	words := []string{"nix", "--extra-experimental-features", languageFeatures + " nix-command", "path-info", "--store", store, "--all", "--json"}
	if r.atLeast("2.32") {
		words = append(words, "--json-format", "1")
	}
	out := must(t, r.command(scene, words...))
	text := []byte(strings.Join(out, "\n"))
	objects := map[string]object{}
	// Older releases give a list, newer ones an object.
	if bytes.HasPrefix(text, []byte("[")) {
		var list []struct {
			Path string
			object
		}
		if err := json.Unmarshal(text, &list); err != nil {
			t.Fatalf("read path infos: %v", err)
		}
		for _, o := range list {
			objects[o.Path] = o.object
		}
	} else if err := json.Unmarshal(text, &objects); err != nil {
		t.Fatalf("read path infos: %v", err)
	}
	for path, o := range objects {
		slices.Sort(o.References)
		if age := time.Since(time.Unix(o.RegistrationTime, 0)); age < -time.Minute || age > time.Hour {
			t.Errorf("%s was registered %v ago", path, age)
		}
		o.RegistrationTime = 0
		objects[path] = o
	}
	return objects
}

// take makes a snapshot of a side's store.
func take(t *testing.T, s *side) *snapshot {
	t.Helper()
	snap := &snapshot{
		objects: s.release.pathInfos(t, s.scene, s.store),
		files:   map[string][]string{},
		outputs: map[string][]string{},
		logs:    map[string]string{},

		realisations: map[string]string{},
	}
	var floating []string
	for _, path := range slices.Sorted(maps.Keys(snap.objects)) {
		snap.files[path] = walk(t, s.store+path)
		if strings.HasSuffix(path, ".drv") {
			snap.outputs[path] = derivationOutputs(t, s.store+path)
			if isFloating(t, s.store+path) && s.release.atLeast(newestSeries) {
				floating = append(floating, path)
			}
		}
	}
	snap.readRealisations(t, s, floating)
	for _, name := range names(t, filepath.Join(s.store, "nix/store")) {
		if _, valid := snap.objects["/nix/store/"+name]; valid || name == ".links" {
			continue
		}
		snap.strays = append(snap.strays, name)
		if isKept(name) {
			snap.keep(t, name, filepath.Join(s.store, "nix/store", name))
		}
	}
	snap.state = stateFiles(t, s.store)
	for _, file := range snap.state {
		if isKept(file) && strings.HasSuffix(file, "/") {
			snap.keep(t, "a build directory", filepath.Join(s.store, file))
		}
	}
	slices.Sort(snap.kept)
	snap.readLogs(t, filepath.Join(s.store, "nix/var/log/nix/drvs"))
	return snap
}

// readRealisations asks Nix about the outputs of derivations: about all at once,
// and where it does not know some of them, about each.
func (snap *snapshot) readRealisations(t *testing.T, s *side, drvs []string) {
	t.Helper()
	ask := func(drvs ...string) outcome {
		words := []string{"nix", "--store", s.store, "--extra-experimental-features", languageFeatures + " nix-command", "realisation", "info", "--json"}
		for _, drv := range drvs {
			words = append(words, drv+"^*")
		}
		return run(t, s.nix(words...))
	}
	if len(drvs) == 0 {
		return
	}
	if o := ask(drvs...); o.exit == 0 {
		snap.realisations["all"] = fmt.Sprint(o.stdout)
		return
	}
	for _, drv := range drvs {
		o := ask(drv)
		snap.realisations[drv] = fmt.Sprint(o.exit, o.stdout)
	}
}

// isKept tells whether a stray, or a file in the state directory, may be there on
// purpose.
func isKept(name string) bool {
	return strings.HasSuffix(name, ".check") || strings.HasPrefix(name, "nix/var/nix/builds/")
}

// keep notes a tree that is no object. Who owns it, and its times, are each side's
// own.
func (snap *snapshot) keep(t *testing.T, what, tree string) {
	t.Helper()
	lines := walk(t, tree)
	for i, line := range lines {
		lines[i] = ownPart.ReplaceAllString(line, "")
	}
	snap.kept = append(snap.kept, what+"\n"+strings.Join(lines, "\n"))
}

var ownPart = regexp.MustCompile(` mtime=\S+ owner=\S+`)

// walk describes every file of a tree: kind, permissions, time, owner and what
// is in it as far as one line can say.
func walk(t *testing.T, root string) []string {
	t.Helper()
	var lines []string
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		stat := info.Sys().(*syscall.Stat_t)
		line := fmt.Sprintf("%q %v mtime=%d.%09d owner=%d:%d", strings.TrimPrefix(path, root), info.Mode(),
			stat.Mtim.Sec, stat.Mtim.Nsec, stat.Uid, stat.Gid)
		switch {
		case info.Mode().IsRegular():
			line += fmt.Sprintf(" size=%d", info.Size())
		case info.Mode()&fs.ModeSymlink != 0:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" to=%q", target)
		}
		lines = append(lines, line)
		return nil
	})
	if err != nil {
		t.Errorf("a valid path is not readable: %v", err)
	}
	return lines
}

// derivationOutputs has the output paths that stand at the head of a derivation
// file.
func derivationOutputs(t *testing.T, file string) []string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	head, _, _ := strings.Cut(strings.TrimPrefix(string(text), "Derive(["), "]")
	var outputs []string
	for _, word := range strings.Split(head, `"`) {
		if strings.HasPrefix(word, "/nix/store/") {
			outputs = append(outputs, word)
		}
	}
	return outputs
}

// isFloating tells whether a derivation has an output whose path its file does not
// say.
func isFloating(t *testing.T, file string) bool {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	head, _, _ := strings.Cut(string(text), "]")
	return floatingOutput.MatchString(head)
}

// floatingOutput is the beginning of an output without a path: `("out","",`.
var floatingOutput = regexp.MustCompile(`\("[^"]*","",`)

// readLogs reads the log directory of a store, in which the first two characters
// of a derivation's name are a directory.
func (snap *snapshot) readLogs(t *testing.T, dir string) {
	t.Helper()
	for _, prefix := range names(t, dir) {
		for _, rest := range names(t, filepath.Join(dir, prefix)) {
			data, err := os.ReadFile(filepath.Join(dir, prefix, rest))
			if err != nil {
				t.Fatal(err)
			}
			name, compressed := strings.CutSuffix(rest, ".bz2")
			// Nix leaves an empty file where it was killed or gave up early.
			if compressed && len(data) > 0 {
				if data, err = io.ReadAll(bzip2.NewReader(bytes.NewReader(data))); err != nil {
					t.Errorf("log %s%s: %v", prefix, rest, err)
				}
			}
			snap.logs["/nix/store/"+prefix+name] = string(data)
		}
	}
}

// names are the names in a directory, none if it does not exist.
func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// verify lets real Nix check a store with all its contents.
func verify(t *testing.T, scene *testenv.Scene, store string) {
	t.Helper()
	hostNix(t).verify(t, scene, store)
}

func (r *release) verify(t *testing.T, scene *testenv.Scene, store string) {
	t.Helper()
	o := run(t, r.command(scene, "nix-store", "--store", store, "--verify", "--check-contents",
		"--option", "extra-experimental-features", languageFeatures))
	if o.exit != 0 {
		t.Errorf("nix-store --verify --check-contents: exit %d\n%s", o.exit, o.stderr)
	}
	for line := range strings.Lines(o.stderr) {
		if strings.Contains(line, "error") || strings.Contains(line, "disappeared") || strings.Contains(line, "modified") {
			t.Errorf("nix-store --verify --check-contents: %s", line)
		}
	}
}

// lasting are the parts of the state directory that a program may add files to
// which stay: the database, logs, roots, and locks that are there to be locked.
var lasting = []string{
	"nix/var/nix/db", "nix/var/log", "nix/var/nix/gcroots", "nix/var/nix/profiles", "nix/var/nix/gc.lock",
	"nix/var/nix/gc-socket", "nix/var/nix/userpool", "nix/var/nix/userpool2",
	"nix/var/nix/current-load", // of real Nix's build hook
}

// stateFiles are the files in the state directory of a store that only a running
// program has: locks, sessions, temporary roots, build directories.
func stateFiles(t *testing.T, store string) []string {
	t.Helper()
	var files []string
	err := filepath.WalkDir(filepath.Join(store, "nix/var"), func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(store, path)
		switch {
		case err != nil:
			return err
		case slices.Contains(lasting, rel):
			if d.IsDir() {
				return fs.SkipDir
			}
		case !d.IsDir():
			files = append(files, rel)
		case filepath.Base(filepath.Dir(path)) == "builds":
			files = append(files, rel+"/")
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	return files
}
