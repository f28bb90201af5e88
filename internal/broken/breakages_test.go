package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestBreakagesApply finds out at once what `make broken` would find out after minutes: that
// what is to be broken is not there any more, or the test that should notice.
func TestBreakagesApply(t *testing.T) {
	const module = "../.."
	for _, b := range breakages {
		if b.file != "" {
			source, err := os.ReadFile(filepath.Join(module, b.file))
			if err != nil {
				t.Errorf("%s: %v", b.test, err)
			} else if n := strings.Count(string(source), b.old); n != 1 {
				t.Errorf("%s: %q stands %d times in %s, not once", b.test, b.old, n, b.file)
			}
		}
		name, _, _ := strings.Cut(b.run, "/")
		test := regexp.MustCompile(`(?m)^func ` + name + `\(`)
		files, err := filepath.Glob(filepath.Join(module, b.pkg, "*_test.go"))
		if err != nil {
			t.Fatal(err)
		}
		found := false
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			found = found || test.Match(text)
		}
		if !found {
			t.Errorf("%s: package %s has no test %s", b.test, b.pkg, name)
		}
	}
}
