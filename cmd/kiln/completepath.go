package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/aterm"
	"github.com/kilnbuild/kiln/nix/conf"
	"github.com/spf13/cobra"
)

// Limits of what a shell is shown, and of what is looked at for it.
const (
	maxShown  = 1000    // store paths
	maxLooked = 1 << 20 // entries of the store directory
)

// completeArguments says what the words after commands may be, where that is not
// any file.
func completeArguments(root *cobra.Command) {
	for path, complete := range map[string]cobra.CompletionFunc{
		"build":               completeDerivations,
		"log":                 completeStorePaths,
		"derivation show":     completeStorePaths,
		"derivation add":      derivationFiles,
		"store info":          completeStorePaths,
		"store dump":          completeStorePaths,
		"store verify":        cobra.NoFileCompletions,
		"store optimise":      cobra.NoFileCompletions,
		"store du":            completeStorePaths,
		"store diff-closures": completeStorePaths,
		"gc":                  completeStorePaths,
		"gc roots":            cobra.NoFileCompletions,
		"doctor":              cobra.NoFileCompletions,
	} {
		c, _, err := root.Find(strings.Fields(path))
		if err != nil || c.CommandPath() != root.Name()+" "+path {
			panic("no command " + path)
		}
		c.ValidArgsFunction = complete
	}
}

// completeDerivations completes what `kiln build` takes: derivations in the store,
// files with derivations, and outputs after a ^.
func completeDerivations(c *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
	settings := configurationOf(c)
	if settings == nil {
		return nil, cobra.ShellCompDirectiveDefault
	}
	if name, outputs, chosen := strings.Cut(typed, "^"); chosen {
		return completeOutputs(settings.local, name, outputs)
	}
	if paths, directive, ok := storePaths(settings.local, typed, nix.DrvExtension); ok {
		return paths, directive
	}
	return derivationFiles(c, args, typed)
}

// completeStorePaths completes store paths and files.
func completeStorePaths(c *cobra.Command, _ []string, typed string) ([]string, cobra.ShellCompDirective) {
	if settings := configurationOf(c); settings != nil {
		if paths, directive, ok := storePaths(settings.local, typed, ""); ok {
			return paths, directive
		}
	}
	return nil, cobra.ShellCompDirectiveDefault
}

// derivationFiles completes files that may have a derivation in them.
func derivationFiles(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
	return []string{"drv", "json"}, cobra.ShellCompDirectiveFilterFileExt
}

// configurationOf reads the configuration that the command line so far asks for, nil
// if it cannot be.
func configurationOf(c *cobra.Command) *configuration {
	g := &globals{quiet: true}
	// Every command has these flags.
	g.store, _ = c.Flags().GetString("store")
	g.options, _ = c.Flags().GetStringArray("option")
	settings, err := g.configure()
	if err != nil {
		cobra.CompErrorln(err.Error())
		return nil
	}
	return settings
}

// storePaths completes a path in the store with a name that ends in suffix, by what
// is there under the store's real directory; the shell itself could not find it in
// a store with a root of its own. ok is false when typed is the beginning of no
// such path.
func storePaths(dirs conf.LocalDirs, typed, suffix string) (paths []string, directive cobra.ShellCompDirective, ok bool) {
	prefix := dirs.Store + "/"
	name, inside := strings.CutPrefix(typed, prefix)
	switch {
	// A single slash or letter may be the beginning of anything.
	case !inside && strings.HasPrefix(prefix, typed) && strings.Count(typed, "/") > 1:
		return []string{prefix}, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace, true
	case !inside:
		return nil, 0, false
	case strings.Contains(name, "/"):
		return nil, 0, false
	}
	d, err := os.Open(dirs.Real)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp, true
	}
	defer d.Close()
	for looked := 0; looked < maxLooked && len(paths) < maxShown; {
		names, err := d.Readdirnames(1024)
		looked += len(names)
		for _, n := range names {
			if strings.HasPrefix(n, name) && strings.HasSuffix(n, suffix) && isObject(n) {
				paths = append(paths, prefix+n)
			}
		}
		if err != nil {
			if !errors.Is(err, io.EOF) {
				cobra.CompErrorln(err.Error())
			}
			break
		}
	}
	slices.Sort(paths)
	return paths, cobra.ShellCompDirectiveNoFileComp, true
}

// isObject tells whether an entry of the store directory may be a store object, and
// not what is beside one.
func isObject(name string) bool {
	_, err := nix.ParseStorePath(name)
	return err == nil && !strings.HasSuffix(name, ".lock") && !strings.HasSuffix(name, ".chroot") && !strings.HasSuffix(name, ".check")
}

// completeOutputs completes the outputs of a derivation, after those that are named
// already.
func completeOutputs(dirs conf.LocalDirs, name, typed string) ([]string, cobra.ShellCompDirective) {
	const directive = cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
	drv, err := peekDerivation(dirs, name)
	if err != nil {
		cobra.CompErrorln(err.Error())
		return nil, directive
	}
	done := typed[:strings.LastIndex(typed, ",")+1]
	named := strings.Split(done, ",")
	var list []string
	if done == "" {
		list = append(list, name+"^*")
	}
	for _, output := range drv.OutputNames() {
		if !slices.Contains(named, string(output)) {
			list = append(list, name+"^"+done+string(output))
		}
	}
	fit, _ := oneOf(list)(nil, nil, name+"^"+typed)
	return fit, directive
}

// peekDerivation reads a derivation in the store or in a file, without opening the
// store.
func peekDerivation(dirs conf.LocalDirs, name string) (*nix.Derivation, error) {
	dir, err := nix.ParseStoreDir(dirs.Store)
	if err != nil {
		return nil, err
	}
	if rest, inside := strings.CutPrefix(name, dirs.Store+"/"); inside {
		name = filepath.Join(dirs.Real, rest)
	}
	// Nobody would write to standard input or to a pipe now.
	if info, err := os.Stat(name); err != nil || !info.Mode().IsRegular() {
		return nil, fmt.Errorf("'%s' is no file", name)
	}
	text, err := readLimited(name, maxDrvFile)
	if err != nil {
		return nil, err
	}
	if !strings.HasSuffix(name, nix.DrvExtension) {
		return parseJSONDerivation(dir, text)
	}
	base := filepath.Base(name)
	if p, err := nix.ParseStorePath(base); err == nil {
		base = p.Name()
	}
	return aterm.Parse(dir, strings.TrimSuffix(base, nix.DrvExtension), text, aterm.Limits{})
}
