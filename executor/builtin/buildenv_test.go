package builtin

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// packages makes directories with files; a name with " -> " is a link.
func packages(t *testing.T, trees map[string][]string) (dir string) {
	dir = t.TempDir()
	for name, files := range trees {
		for _, f := range append(files, "") {
			f, target, isLink := strings.Cut(f, " -> ")
			f, content, _ := strings.Cut(f, "=")
			place := filepath.Join(dir, name, f)
			parent := filepath.Dir(place)
			if f == "" {
				parent = place
			}
			if err := os.MkdirAll(parent, 0o755); err != nil {
				t.Fatal(err)
			}
			var err error
			switch {
			case isLink:
				err = os.Symlink(target, place)
			case f != "":
				err = os.WriteFile(place, []byte(strings.ReplaceAll(content, "DIR", dir)), 0o644)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	return dir
}

// profileOf builds a profile of packages, given as "active priority name".
func profileOf(t *testing.T, dir string, list ...string) (r *Request) {
	var derivations []string
	for _, item := range list {
		var active, name string
		var priority int
		if _, err := fmt.Sscan(item, &active, &priority, &name); err != nil {
			t.Fatal(err)
		}
		derivations = append(derivations, fmt.Sprintf("%s %d 1 %s/%s", active, priority, dir, name))
	}
	return &Request{
		Builder: "builtin:buildenv", Env: map[string]string{"derivations": strings.Join(derivations, " "), "manifest": "/manifest"},
		Outputs: map[string]string{"out": filepath.Join(dir, "out")},
	}
}

// links lists the links of a profile.
func links(t *testing.T, dir string) map[string]string {
	got := make(map[string]string)
	root := filepath.Join(dir, "out")
	err := filepath.WalkDir(root, func(p string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		target, err := os.Readlink(p)
		rel, _ := filepath.Rel(root, p)
		got[rel] = strings.TrimPrefix(target, dir+"/")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return got
}

func TestBuildenv(t *testing.T) {
	trees := map[string][]string{
		"a":      {"bin/a", "share/doc/a", "nix-support/x", ".hidden", "log", "lib/perllocal.pod"},
		"b":      {"bin/b", "share/man/b"},
		"c":      {"bin/a", "dangling -> nowhere"},
		"brings": {"etc/brings", "nix-support/propagated-user-env-packages=DIR/brought DIR/a\n"},
		"brought": {
			"bin/a", "bin/brought", "nix-support/propagated-user-env-packages=DIR/brings",
		},
		"file": nil,
	}
	for _, test := range []struct {
		name string
		list []string
		want map[string]string
		log  string
	}{
		{"one", []string{"true 5 a"}, map[string]string{"bin": "a/bin", "lib": "a/lib", "share": "a/share"}, ""},
		{"two", []string{"true 5 a", "true 5 b"}, map[string]string{
			"bin/a": "a/bin/a", "bin/b": "b/bin/b", "lib": "a/lib", "share/doc": "a/share/doc", "share/man": "b/share/man",
		}, ""},
		{"priority", []string{"true 5 a", "true 4 c"}, map[string]string{"bin/a": "c/bin/a", "lib": "a/lib", "share": "a/share"}, "skipping dangling symlink"},
		{"priority, the other way", []string{"true 4 a", "true 5 c"}, map[string]string{"bin/a": "a/bin/a", "lib": "a/lib", "share": "a/share"}, ""},
		{"inactive", []string{"false 5 a", "true 5 b"}, map[string]string{"bin": "b/bin", "share": "b/share"}, ""},
		{"brought along", []string{"true 5 brings"}, map[string]string{
			"bin/a": "a/bin/a", "bin/brought": "brought/bin/brought", "etc": "brings/etc", "lib": "a/lib", "share": "a/share",
		}, ""},
		{"nothing", nil, map[string]string{}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			dir := packages(t, trees)
			log, ok := built(t, profileOf(t, dir, test.list...))
			if !ok || !strings.Contains(log, test.log) {
				t.Fatalf("succeeded: %v, log: %s", ok, log)
			}
			test.want["manifest.nix"] = "/manifest"
			if diff := cmp.Diff(test.want, links(t, dir)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestBuildenvRefuses(t *testing.T) {
	dir := packages(t, map[string][]string{
		"a": {"bin/a"}, "b": {"bin/a"}, "d": {"bin/d"}, "file": {"bin"}, "huge": {"nix-support/propagated-user-env-packages=" + strings.Repeat("x", maxPropagated+1)},
	})
	conflict := fmt.Sprintf("Unable to build profile. There is a conflict for the following files:\n\n  %s/a/bin/a\n  %s/b/bin/a", dir, dir)
	for _, test := range []struct {
		list  []string
		words string
	}{
		{[]string{"true 5 a", "true 5 b"}, conflict},
		{[]string{"true 4 a", "true 5 d", "true 6 file"}, "collision between non-directory"},
		{[]string{"true 5 file", "true 6 a"}, "non-directory"},
		{[]string{"true 5 huge"}, "is longer than"},
		{[]string{"true 5 missing"}, "no such file"},
	} {
		r := profileOf(t, dir, test.list...)
		mustFail(t, r, test.words)
		if err := os.RemoveAll(r.Outputs["out"]); err != nil {
			t.Fatal(err)
		}
	}
	for _, list := range []string{"true", "true x 1 /a", "true 1 2 /a", "true 1 -1 /a", "true 1 99999999999999999999 /a"} {
		r := profileOf(t, dir)
		r.Env["derivations"] = list
		mustFail(t, r, "attribute 'derivations' is not a list")
	}
}

func FuzzParsePackages(f *testing.F) {
	f.Add("true 5 1 /a")
	f.Fuzz(func(t *testing.T, list string) {
		packages, err := parsePackages(list)
		if err == nil && len(packages) > len(list) {
			t.Errorf("%d packages", len(packages))
		}
	})
}
