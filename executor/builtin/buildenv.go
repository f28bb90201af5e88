package builtin

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// buildenv makes a profile: a tree of links to the files of packages, in which
// directories that several packages have are real ones. (Nix: builtin:buildenv.)
func (t *task) buildenv() error {
	out, err := t.out()
	if err != nil {
		return err
	}
	list, err := t.attribute("derivations")
	if err != nil {
		return err
	}
	manifest, err := t.attribute("manifest")
	if err != nil {
		return err
	}
	packages, err := parsePackages(list)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	p := &profile{task: t, out: out, priorities: make(map[string]int), done: make(map[string]bool)}
	if err := p.build(packages); err != nil {
		return err
	}
	return os.Symlink(manifest, filepath.Join(out, "manifest.nix"))
}

// profilePackage is one directory to be linked to.
type profilePackage struct {
	path     string
	active   bool
	priority int // the lower one wins
}

// parsePackages reads the attribute "derivations": for each derivation whether it
// is active, its priority, the number of its outputs, and these.
func parsePackages(list string) (packages []profilePackage, err error) {
	words := strings.Fields(list)
	bad := func() ([]profilePackage, error) {
		return nil, errors.New("attribute 'derivations' is not a list of: active, priority, number of outputs, outputs")
	}
	for len(words) > 0 {
		if len(words) < 3 {
			return bad()
		}
		priority, perr := strconv.Atoi(words[1])
		outputs, oerr := strconv.Atoi(words[2])
		if perr != nil || oerr != nil || outputs < 0 || outputs > len(words)-3 {
			return bad()
		}
		for _, path := range words[3 : 3+outputs] {
			packages = append(packages, profilePackage{path, words[0] != "false", priority})
		}
		words = words[3+outputs:]
	}
	return packages, nil
}

// profile is a profile in the making.
type profile struct {
	*task
	out        string
	priorities map[string]int // of the links that were made
	done       map[string]bool
	postponed  []string
}

// propagatedPriority is that of the first package that another one brings along.
const propagatedPriority = 1000

// build links to the packages by priority, and then to those that they bring
// along, which yield to all others.
func (p *profile) build(packages []profilePackage) error {
	slices.SortFunc(packages, func(a, b profilePackage) int {
		return cmp.Or(cmp.Compare(a.priority, b.priority), cmp.Compare(a.path, b.path))
	})
	for _, pkg := range packages {
		if !pkg.active {
			continue
		}
		if err := p.add(pkg.path, pkg.priority); err != nil {
			return err
		}
	}
	for priority := propagatedPriority; len(p.postponed) > 0; {
		next := slices.Compact(slices.Sorted(slices.Values(p.postponed)))
		p.postponed = nil
		for _, path := range next {
			if err := p.add(path, priority); err != nil {
				return err
			}
			priority++
		}
	}
	return nil
}

func (p *profile) add(dir string, priority int) error {
	if p.done[dir] {
		return nil
	}
	p.done[dir] = true
	if err := p.link(dir, p.out, priority); err != nil {
		return err
	}
	propagated, err := readFile(filepath.Join(dir, "nix-support", "propagated-user-env-packages"))
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
		return nil
	}
	for _, path := range strings.FieldsFunc(propagated, func(c rune) bool { return c == ' ' || c == '\n' }) {
		if !p.done[path] {
			p.postponed = append(p.postponed, path)
		}
	}
	return err
}

// maxPropagated bounds the file with what a package brings along, in bytes.
const maxPropagated = 1 << 20

func readFile(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxPropagated+1))
	if len(text) > maxPropagated {
		err = fmt.Errorf("'%s' is longer than %d bytes", path, maxPropagated)
	}
	return string(text), err
}

// useless are files that every package has its own of, and that a profile does
// without.
var useless = []string{
	"/propagated-build-inputs", "/nix-support", "/perllocal.pod", "/info/dir", "/log", "/manifest.nix", "/manifest.json",
}

// link makes links in to for everything in from.
func (p *profile) link(from, to string, priority int) error {
	if err := p.ctx.Err(); err != nil {
		return err
	}
	entries, err := os.ReadDir(from)
	if errors.Is(err, syscall.ENOTDIR) {
		p.warn("not including '%s' in the user environment because it's not a directory", from)
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") {
			continue
		}
		if err := p.entry(filepath.Join(from, e.Name()), filepath.Join(to, e.Name()), priority); err != nil {
			return err
		}
	}
	return nil
}

// entry makes the link to for from, unless something is there already.
func (p *profile) entry(from, to string, priority int) error {
	source, err := os.Stat(from)
	if errors.Is(err, os.ErrNotExist) {
		p.warn("skipping dangling symlink '%s'", to)
		return nil
	}
	if err != nil {
		return err
	}
	if slices.ContainsFunc(useless, func(name string) bool { return strings.HasSuffix(from, name) }) {
		return nil
	}
	there, err := os.Lstat(to)
	switch {
	case errors.Is(err, os.ErrNotExist):
	case err != nil:
		return err
	case source.IsDir() && there.IsDir():
		return p.link(from, to, priority)
	case source.IsDir() && there.Mode()&os.ModeSymlink != 0:
		return p.merge(from, to, priority)
	case there.IsDir():
		return fmt.Errorf("collision between non-directory '%s' and directory '%s'", from, to)
	case there.Mode()&os.ModeSymlink != 0 && !source.IsDir():
		before := p.priorities[to]
		if before == priority {
			other, err := os.Readlink(to)
			if err != nil {
				return err
			}
			return fmt.Errorf("Unable to build profile. There is a conflict for the following files:\n\n  %s\n  %s", other, from)
		}
		if before < priority {
			return nil
		}
		if err := os.Remove(to); err != nil {
			return err
		}
	}
	if err := os.Symlink(from, to); err != nil {
		return err
	}
	p.priorities[to] = priority
	return nil
}

// merge makes a directory of the link to a directory that is at to, with links to
// what is in both.
func (p *profile) merge(from, to string, priority int) error {
	first, err := filepath.EvalSymlinks(to)
	if err != nil {
		return err
	}
	if info, err := os.Lstat(first); err != nil {
		return err
	} else if !info.IsDir() {
		return fmt.Errorf("collision between '%s' and non-directory '%s'", from, first)
	}
	if err := os.Remove(to); err != nil {
		return err
	}
	if err := os.Mkdir(to, 0o755); err != nil {
		return err
	}
	if err := p.link(first, to, p.priorities[to]); err != nil {
		return err
	}
	return p.link(from, to, priority)
}
