package testenv

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

// Kiln is the kiln program to test: $KILN if it is set, otherwise one that is
// built from the tree, once in each test process. The process must have been
// started by Main, which removes the program at the end.
func Kiln(t testing.TB) string {
	t.Helper()
	path, err := kiln()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// programs is where Main lets Kiln put what it builds.
var programs string

var kiln = sync.OnceValues(func() (string, error) {
	if path := os.Getenv("KILN"); path != "" {
		return filepath.Abs(path)
	}
	if programs == "" {
		return "", fmt.Errorf("build kiln: the package has no TestMain that calls testenv.Main")
	}
	root, err := ModuleRoot()
	if err != nil {
		return "", err
	}
	path := filepath.Join(programs, "kiln")
	cmd := exec.Command("go", "build", "-o", path, "./cmd/kiln")
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build kiln: %w\n%s", err, out)
	}
	return path, nil
})

// ModuleRoot is the directory of the module that the working directory is in.
func ModuleRoot() (string, error) {
	start, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for dir := start; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("find go.mod: not in %s or above", start)
		}
	}
}
