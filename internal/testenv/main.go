package testenv

import (
	"fmt"
	"os"
	"testing"

	"github.com/kilnbuild/kiln/internal/enclave"
)

// Main runs the tests of a package and gives the status that its TestMain has
// to exit with. If groups are named, root's tests run in an enclave that has
// these groups of build users; see Enclave.
func Main(m *testing.M, groups ...string) int {
	if len(groups) == 0 || !Root() {
		return run(m)
	}
	status, err := enclave.Run(enclave.Options{Groups: groups}, func(e *enclave.Enclave) int {
		inside = e
		return run(m)
	})
	if err != nil {
		fmt.Fprintf(os.Stderr, "enter an enclave for the tests: %v\n", err)
		return 1
	}
	return status
}

var inside *enclave.Enclave

// Enclave is the enclave that Main made, nil for ordinary users.
func Enclave() *enclave.Enclave { return inside }

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "kiln-programs-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	programs = dir
	return m.Run()
}
