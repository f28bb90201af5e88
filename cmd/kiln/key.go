package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/sign"
	"github.com/kilnbuild/kiln/store"
	"github.com/kilnbuild/kiln/store/binarycache"
	"github.com/spf13/cobra"
)

func keyCommand() *cobra.Command {
	c := &cobra.Command{Use: "key", Short: "Make keys that sign store objects"}
	c.AddCommand(keyGenerateCommand(), keyPublicCommand())
	return c
}

func keyGenerateCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "generate NAME",
		Short: "Print a new secret key",
		Long: "Makes a secret key of that name and prints it. Keep it in a file that nobody else can read. Those who shall\n" +
			"trust what it signs need the public key that `kiln key public` makes of it, in trusted-public-keys of nix.conf.\n" +
			"The name is usually a host's and a number, as cache.example.org-1.",
		Args: cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			k, err := sign.GenerateKey(args[0])
			if err == nil {
				fmt.Println(k.Text())
			}
			return err
		},
	}
}

func keyPublicCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "public",
		Short: "Print the public key of the secret key on standard input",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			const limit = 4 << 10 // bytes
			text, err := readLimited("-", limit)
			if err != nil {
				return err
			}
			k, err := sign.ParseSecretKey(string(text))
			if err == nil {
				fmt.Println(k.Public())
			}
			return err
		},
	}
}

// A signer takes further signatures of its objects.
type signer interface {
	AddSignatures(ctx context.Context, p nix.StorePath, signatures []string) error
}

func storeSignCommand(g *globals) *cobra.Command {
	var keyFile string
	var recursive bool
	c := &cobra.Command{
		Use:   "sign --key-file FILE PATH…",
		Short: "Sign store objects",
		Long:  "Adds signatures by a secret key to store objects, as `kiln key generate` prints one.",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			k, err := binarycache.ReadSecretKey(keyFile)
			if err != nil {
				return err
			}
			return signObjects(c.Context(), g, k, args, recursive)
		},
	}
	c.Flags().StringVarP(&keyFile, "key-file", "k", "", "the `FILE` with the secret key")
	c.Flags().BoolVarP(&recursive, "recursive", "r", false, "sign what they refer to as well")
	c.MarkFlagRequired("key-file")
	return c
}

func signObjects(ctx context.Context, g *globals, k sign.SecretKey, args []string, recursive bool) (err error) {
	c, err := g.configure()
	if err != nil {
		return err
	}
	s, err := c.openAny(ctx, "", true)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	to, ok := s.Store.(signer)
	if !ok {
		return fmt.Errorf("store '%s' takes no signatures", s.name)
	}
	paths, err := s.paths(args)
	if err != nil {
		return err
	}
	if recursive {
		if paths, err = store.Closure(ctx, s.Store, paths...); err != nil {
			return err
		}
	}
	for _, p := range paths {
		info, err := s.PathInfo(ctx, p)
		if err != nil {
			return err
		}
		signature, err := k.SignObject(s.Dir(), info)
		if err != nil {
			return err
		}
		if err := to.AddSignatures(ctx, p, []string{signature}); err != nil {
			return err
		}
	}
	if g.verbose > 0 {
		fmt.Fprintf(os.Stderr, "%d objects are signed by '%s'\n", len(paths), k.Name)
	}
	return nil
}
