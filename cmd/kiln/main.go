// Command kiln builds Nix derivations in sandboxes and keeps what came out in a
// store that Nix can open.
//
// This package turns flags into options, wires the parts together and turns
// results into text and exit codes. What the parts do is in their packages.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime/debug"
	"slices"
	"syscall"

	"github.com/kilnbuild/kiln/executor/builtin"
	"github.com/spf13/cobra"
)

// version is set by the linker.
var version = "development"

func main() {
	if filepath.Base(os.Args[0]) == builtin.Name {
		os.Exit(builtin.Main(context.Background(), os.Stdin, os.Stderr))
	}
	// The heap is small, and most of what builds take is spent in the kernel: more
	// collections cost less than memory that waits for one.
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(50)
	}
	args := os.Args[1:]
	switch filepath.Base(os.Args[0]) {
	case nixDaemon:
		args = append([]string{"daemon"}, args...)
	case nixStore:
		if !slices.Contains(args, "--serve") {
			fmt.Fprintln(os.Stderr, "error: this nix-store is kiln, which does nothing by that name but `nix-store --serve`")
			os.Exit(1)
		}
		args = append([]string{"daemon"}, args...)
	}
	os.Exit(run(args))
}

// run carries out one command line and gives its exit code.
func run(args []string) int {
	defer func() { endLog() }()
	root := rootCommand()
	ctx := context.Background()
	if c, _, err := root.Find(args); err != nil || c.Annotations[ownSignals] == "" {
		// The first signal asks everything under way to stop and clean up; a second
		// one ends the process at once.
		interrupted, cancel := signal.NotifyContext(ctx, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
		defer cancel()
		go func() {
			<-interrupted.Done()
			cancel()
		}()
		ctx = interrupted
	}
	if completing(args) {
		root.SetArgs(prepareCompletion(root, args))
	} else {
		root.SetArgs(prepareWords(root, args))
	}
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	code := 1
	var exit *exitError
	if errors.As(err, &exit) {
		code, err = exit.code, exit.err
	}
	if ctx.Err() != nil {
		err, code = errors.New("interrupted"), 130
	}
	if err != nil {
		terminationMessage(err.Error())
		fmt.Fprintf(os.Stderr, "error: %v\n", err)
	}
	return code
}

// ownSignals is an annotation of commands that handle signals themselves.
const ownSignals = "signals"

// exitError is an error with an exit code of its own. Without err, what there is
// to say has been said.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string { return fmt.Sprintf("exit code %d: %v", e.code, e.err) }

func rootCommand() *cobra.Command {
	g := &globals{}
	root := &cobra.Command{
		Use:   "kiln",
		Short: "Build Nix derivations in sandboxes",
		Long: "kiln takes Nix derivations, makes their inputs present, runs their builders in sandboxes of\n" +
			"Linux namespaces, and registers what came out in a store that Nix can open at the same time.",
		Version:       version,
		SilenceErrors: true,
		SilenceUsage:  true,
	}
	g.register(root)
	root.AddCommand(buildCommand(g), daemonCommand(g), logCommand(g), derivationCommand(g), storeCommand(g), copyCommand(g), keyCommand(), cacheCommand(g), doctorCommand(g), completionCommand(), gcCommand(g))
	root.AddCommand(serviceCommands(g)...)
	return root
}
