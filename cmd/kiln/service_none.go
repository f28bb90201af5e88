//go:build lite

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"github.com/spf13/cobra"
)

// companion is the program that has all that this one has, and the executor service as
// well. What gRPC needs to start would otherwise be a part of every start of this one.
const companion = "kiln-service"

// serviceCommands are those of the companion.
func serviceCommands(*globals) (list []*cobra.Command) {
	for use, short := range map[string]string{
		"serve": "Offer the executor service", "ps": "List the builds of an executor service", "logs ID": "Print the log of a build of an executor service",
		"wait ID": "Wait for a build of an executor service", "cancel ID": "Stop a build of an executor service",
	} {
		list = append(list, &cobra.Command{Use: use, Short: short, DisableFlagParsing: true, RunE: func(*cobra.Command, []string) error { return become() }})
	}
	return list
}

func buildByExecutor(context.Context, *globals, *buildFlags, []string) error { return become() }

// become runs the companion in the place of this program.
func become() error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	path := filepath.Join(filepath.Dir(self), companion)
	if _, err := os.Stat(path); err != nil {
		if path, err = exec.LookPath(companion); err != nil {
			return fmt.Errorf("this needs the program %s, which is neither beside '%s' nor in PATH: `make build` makes it", companion, self)
		}
	}
	return errors.Join(fmt.Errorf("become %s", path), syscall.Exec(path, append([]string{companion}, os.Args[1:]...), os.Environ()))
}
