package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/nar"
	"github.com/kilnbuild/kiln/store/local"
	"github.com/spf13/cobra"
)

func storeCommand(g *globals) *cobra.Command {
	c := &cobra.Command{Use: "store", Short: "Look at a store, add to it, check it"}
	c.AddCommand(storeInfoCommand(g), storeDumpCommand(g), storeRestoreCommand(), storeAddCommand(g), storeVerifyCommand(g),
		storeOptimiseCommand(g), storeDuCommand(g), storeDiffCommand(g), storeSignCommand(g),
		storeExportCommand(g), storeImportCommand(g), storeContentAddressCommand(g), storePingCommand(g))
	return c
}

func storeInfoCommand(g *globals) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "info [PATH…]",
		Short: "Tell about the store, or about objects in it",
		RunE: func(c *cobra.Command, args []string) error {
			return g.withAny(c.Context(), false, func(conf *configuration, st openedStore) error {
				here, isLocal := st.Store.(*local.Store)
				switch {
				case len(args) > 0:
					return printPathInfos(c.Context(), st, args, asJSON)
				case isLocal:
					return printStore(conf, here, asJSON)
				}
				return ping(c.Context(), st, asJSON)
			})
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

func printStore(c *configuration, st *local.Store, asJSON bool) error {
	info := struct {
		StoreDir string `json:"storeDir"`
		RealDir  string `json:"realStoreDir"`
		StateDir string `json:"stateDir"`
		LogDir   string `json:"logDir"`
		Version  string `json:"version"`
	}{string(st.Dir()), st.RealDir(), c.local.State, c.local.Log, version}
	if asJSON {
		return printJSON(info)
	}
	fmt.Printf("Store directory: %s\nFiles: %s\nState: %s\nLogs: %s\nVersion: kiln %s\n",
		info.StoreDir, info.RealDir, info.StateDir, info.LogDir, info.Version)
	return nil
}

// pathInfoJSON is a store object as `nix path-info --json` prints it.
type pathInfoJSON struct {
	CA               *string  `json:"ca"`
	Deriver          *string  `json:"deriver"`
	NARHash          string   `json:"narHash"`
	NARSize          int64    `json:"narSize"`
	References       []string `json:"references"`
	RegistrationTime int64    `json:"registrationTime"`
	Signatures       []string `json:"signatures"`
	Ultimate         bool     `json:"ultimate"`
}

func printPathInfos(ctx context.Context, st openedStore, args []string, asJSON bool) error {
	infos := make(map[string]pathInfoJSON)
	paths, err := st.paths(args)
	if err != nil {
		return err
	}
	for _, p := range paths {
		info, err := st.PathInfo(ctx, p)
		if err != nil {
			return err
		}
		j := pathInfoJSON{
			NARHash: info.NARHash.SRI(), NARSize: info.NARSize, Ultimate: info.Ultimate,
			RegistrationTime: info.RegistrationTime.Unix(), References: []string{}, Signatures: append([]string{}, info.Signatures...),
		}
		for _, r := range info.References {
			j.References = append(j.References, st.Dir().Join(r))
		}
		if info.Deriver != "" {
			deriver := st.Dir().Join(info.Deriver)
			j.Deriver = &deriver
		}
		if !info.CA.IsZero() {
			ca := info.CA.String()
			j.CA = &ca
		}
		infos[st.Dir().Join(p)] = j
		if !asJSON {
			printPathInfo(st.Dir().Join(p), j)
		}
	}
	if asJSON {
		return printJSON(infos)
	}
	return nil
}

func printPathInfo(path string, j pathInfoJSON) {
	fmt.Printf("%s\n  NAR: %s, %d bytes\n", path, j.NARHash, j.NARSize)
	for _, r := range j.References {
		fmt.Printf("  refers to %s\n", r)
	}
	if j.Deriver != nil {
		fmt.Printf("  built from %s\n", *j.Deriver)
	}
	if j.CA != nil {
		fmt.Printf("  content address %s\n", *j.CA)
	}
}

func printJSON(v any) error {
	enc := json.NewEncoder(os.Stdout)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(v)
}

func storeDumpCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "dump PATH",
		Short: "Write the archive (NAR) of a file tree to standard output",
		Long:  "Writes the archive (NAR) of PATH to standard output. PATH is a file tree on this machine, or a store path.",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			out := bufio.NewWriterSize(os.Stdout, 1<<20)
			if _, err := os.Lstat(args[0]); err == nil {
				path, err := filepath.Abs(args[0])
				if err != nil {
					return err
				}
				if _, err := nar.Dump(out, path, nar.DumpOptions{}); err != nil {
					return err
				}
				return out.Flush()
			}
			return g.withStore(c.Context(), true, func(_ *configuration, st *local.Store) error {
				p, err := storePathArg(st, args[0])
				if err != nil {
					return err
				}
				return errors.Join(st.NAR(c.Context(), p, out), out.Flush())
			})
		},
	}
}

func storeRestoreCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "restore PATH",
		Short: "Unpack an archive (NAR) from standard input",
		Long:  "Unpacks the archive (NAR) on standard input to PATH, which must not exist.",
		Args:  cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			_, err := nar.Restore(args[0], bufio.NewReaderSize(os.Stdin, 1<<20), nar.RestoreOptions{})
			return err
		},
	}
}

func storeAddCommand(g *globals) *cobra.Command {
	var name, mode, algo string
	c := &cobra.Command{
		Use:   "add PATH",
		Short: "Add a file tree to the store",
		Long:  "Copies a file tree into the store as a content-addressed object and prints its store path.",
		Args:  cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			methods := map[string]nix.ContentAddressMethod{"nar": nix.Recursive, "recursive": nix.Recursive, "flat": nix.Flat, "text": nix.Text}
			method, ok := methods[mode]
			if !ok {
				return fmt.Errorf("unknown mode '%s': choose nar, flat or text", mode)
			}
			hash, err := nix.ParseHashAlgorithm(algo)
			if err != nil {
				return err
			}
			if name == "" {
				full, err := filepath.Abs(args[0])
				if err != nil {
					return err
				}
				name = filepath.Base(full)
			}
			return g.withStore(c.Context(), false, func(_ *configuration, st *local.Store) error {
				p, err := st.AddTree(c.Context(), name, args[0], method, hash)
				if err == nil {
					fmt.Println(st.Dir().Join(p))
				}
				return err
			})
		},
	}
	c.Flags().StringVarP(&name, "name", "n", "", "the name of the store object; the file's own by default")
	c.Flags().StringVar(&mode, "mode", "nar", "what is hashed: nar (the archive), flat or text (the bytes of one file)")
	c.Flags().StringVar(&algo, "hash-algo", "sha256", "the hash function")
	return c
}
