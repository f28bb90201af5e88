package main

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

var (
	//go:embed work.nix
	workNix []byte
	//go:embed scripts.nix
	scriptsNix []byte
)

// A bench has the work directory of a run: expressions, seeds of stores, and the
// store that is being measured.
type bench struct {
	options
	dir     string
	busybox string
	copies  int
}

func newBench(opts options, dir string) (*bench, error) {
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		return nil, err
	}
	b := &bench{options: opts, dir: dir}
	for _, sub := range []string{"conf", "home", "state", "log", "tmp"} {
		if err := os.Mkdir(b.path(sub), 0o755); err != nil {
			return nil, err
		}
	}
	for name, text := range map[string][]byte{
		"work.nix":      workNix,
		"scripts.nix":   scriptsNix,
		"conf/nix.conf": []byte("substituters =\nexperimental-features = nix-command\n"),
	} {
		if err := os.WriteFile(b.path(name), text, 0o644); err != nil {
			return nil, err
		}
	}
	// The same for all, whatever their root directories have.
	b.busybox = b.path("busybox")
	_, err = b.output("cp", busybox, b.busybox)
	return b, err
}

func (b *bench) path(names ...string) string {
	return filepath.Join(append([]string{b.dir}, names...)...)
}

// env is the environment of every program that is run: nothing of the machine's
// configuration.
func (b *bench) env() []string {
	return []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + b.path("home"), "USER=bench", "LC_ALL=C", "TERM=dumb", "TMPDIR=" + b.path("tmp"),
		"NIX_CONF_DIR=" + b.path("conf"), "NIX_USER_CONF_FILES=", "NIX_STATE_DIR=" + b.path("state"), "NIX_LOG_DIR=" + b.path("log"),
	}
}

// output runs a program that is not measured.
func (b *bench) output(words ...string) ([]byte, error) {
	cmd := exec.Command(words[0], words[1:]...)
	cmd.Env, cmd.Dir = b.env(), "/"
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("%s: %w: %s", filepath.Base(words[0]), err, lastLines(stderr.Bytes()))
	}
	return out, nil
}

// A fixture is a store with derivations that are to be built.
type fixture struct {
	store string
	drvs  []string
}

// fixture makes the store of an item.
func (b *bench) fixture(it item) (*fixture, error) {
	n := it.scaled(b.scale)
	if it.prepare != nil {
		if err := it.prepare(b, n); err != nil {
			return nil, err
		}
	}
	f := &fixture{store: b.path("seed-" + it.name)}
	out, err := b.output("nix-instantiate", "--store", f.store, "--eval", "--strict", "--json", "--read-write-mode",
		"-E", fmt.Sprintf("(import %s { n = %d; }).%s", b.path("work.nix"), n, it.expr))
	if err != nil {
		return nil, err
	}
	return f, json.Unmarshal(out, &f.drvs)
}

// aloneScript is the text of a builder.
func (b *bench) aloneScript(it item) (string, error) {
	out, err := b.output("nix-instantiate", "--store", b.path("eval"), "--eval", "--strict", "--json",
		"-E", fmt.Sprintf("(import %s { n = %d; }).%s", b.path("scripts.nix"), it.scaled(b.scale), it.alone))
	if err != nil {
		return "", err
	}
	var script string
	return script, json.Unmarshal(out, &script)
}

// freshCopy gives a copy of a store, and what removes it.
func (b *bench) freshCopy(from string) (store string, remove func(), err error) {
	b.copies++
	store = b.path(fmt.Sprintf("store-%d", b.copies))
	if _, err := b.output("cp", "-a", from, store); err != nil {
		removeTree(store)
		return "", nil, err
	}
	return store, func() { removeTree(store) }, nil
}

// hashes are the archive hashes of all valid paths of a store, as real Nix tells
// them.
func (b *bench) hashes(store string) (map[string]string, error) {
	out, err := b.output("nix", "--extra-experimental-features", "nix-command", "path-info", "--store", store, "--all", "--json")
	if err != nil {
		return nil, err
	}
	type info struct{ Path, NarHash string }
	hashes := map[string]string{}
	// Older releases give a list, newer ones an object.
	if bytes.HasPrefix(out, []byte("[")) {
		var list []info
		if err := json.Unmarshal(out, &list); err != nil {
			return nil, err
		}
		for _, i := range list {
			hashes[i.Path] = i.NarHash
		}
		return hashes, nil
	}
	var byPath map[string]info
	if err := json.Unmarshal(out, &byPath); err != nil {
		return nil, err
	}
	for path, i := range byPath {
		hashes[path] = i.NarHash
	}
	return hashes, nil
}

// A subject is a program that is measured.
type subject struct {
	name    string
	program []string
	root    string // the root directory that it runs in, "" for this one
	group   string // of its build users
	bench   *bench
}

// version is what a program of the subject says of itself.
func (s *subject) version(program string) (string, error) {
	var out bytes.Buffer
	if _, err := s.bench.cost(s.root, nil, &out, program, "--version"); err != nil {
		return "", fmt.Errorf("%s --version: %w", program, err)
	}
	return strings.TrimSpace(out.String()), nil
}

// newNix is a Nix that is measured. It is called by its version.
func newNix(b *bench, root, group string) (*subject, error) {
	s := &subject{program: []string{"nix-store", "--realise"}, root: root, group: group, bench: b}
	version, err := s.version("nix") // the others open a store first
	if err != nil {
		return nil, err
	}
	words := strings.Fields(version)
	if len(words) == 0 {
		return nil, fmt.Errorf("%s: it does not say its version", s.program[0])
	}
	s.name = "nix " + words[len(words)-1]
	return s, nil
}

// build is the command that builds derivations.
func (s *subject) build(store string, it item, drvs []string) []string {
	options := map[string]string{
		"sandbox":           "true",
		"sandbox-fallback":  "false",
		"sandbox-paths":     "/bin/sh=" + s.bench.busybox,
		"substituters":      "",
		"build-users-group": s.group,
	}
	if it.options != nil {
		maps.Copy(options, it.options(s.bench))
	}
	words := append(slices.Clone(s.program), "--store", store, "-j", fmt.Sprint(it.jobs))
	for _, name := range slices.Sorted(maps.Keys(options)) {
		words = append(words, "--option", name, options[name])
	}
	return append(words, drvs...)
}

// lastLines is the end of what a program said.
func lastLines(text []byte) string {
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	return strings.Join(lines[max(0, len(lines)-3):], " | ")
}

// removeTree removes a tree whose directories may be read-only.
func removeTree(dir string) {
	filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if d != nil && d.IsDir() {
			os.Chmod(path, 0o700)
		}
		return nil
	})
	if err := os.RemoveAll(dir); err != nil {
		fmt.Fprintf(os.Stderr, "bench: %v\n", err)
	}
}
