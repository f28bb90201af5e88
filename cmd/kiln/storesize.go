package main

import (
	"fmt"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/store"
	"github.com/kilnbuild/kiln/store/gc"
	"github.com/kilnbuild/kiln/store/local"
	"github.com/spf13/cobra"
)

func storeDuCommand(g *globals) *cobra.Command {
	var asJSON bool
	c := &cobra.Command{
		Use:   "du [PATH…]",
		Short: "Tell how much objects take",
		Long: "Prints for each object, in bytes of archives: how much it takes itself, with everything that it refers to,\n" +
			"and how much would become free if nobody needed it any more, which is what nothing else needs.\n\n" +
			"Without paths, prints how much of the store is alive, and how much the next `kiln gc` would delete.",
		RunE: func(c *cobra.Command, args []string) error {
			return g.withStore(c.Context(), true, func(conf *configuration, st *local.Store) error {
				s, err := gc.NewSurvey(c.Context(), st, conf.keep(), g.problems())
				if err != nil {
					return err
				}
				if len(args) == 0 {
					return printStoreSize(s, asJSON)
				}
				return printSizes(st, s, args, asJSON)
			})
		},
	}
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

func printStoreSize(s *gc.Survey, asJSON bool) error {
	var sum struct {
		Objects   int   `json:"objects"`
		Live      int   `json:"live"`
		LiveBytes int64 `json:"liveBytes"`
		DeadBytes int64 `json:"deadBytes"`
	}
	sum.Objects, sum.Live = len(s.Graph.Paths), s.Marks.Count()
	sum.LiveBytes, sum.DeadBytes = s.Sizes()
	if asJSON {
		return printJSON(sum)
	}
	fmt.Printf("%d objects are alive: %s\n%d are not: %s\n",
		sum.Live, humanBytes(sum.LiveBytes), sum.Objects-sum.Live, humanBytes(sum.DeadBytes))
	return nil
}

func printSizes(st *local.Store, s *gc.Survey, args []string, asJSON bool) error {
	type usage struct {
		Own     int64 `json:"narSize"`
		Closure int64 `json:"closureSize"`
		Freed   int64 `json:"freed"`
	}
	all := make(map[string]usage)
	if !asJSON {
		fmt.Printf("%14s %14s %14s\n", "own", "closure", "freed")
	}
	for _, arg := range args {
		p, err := storePathArg(st, arg)
		if err != nil {
			return err
		}
		u, err := s.Usage(p)
		if err != nil {
			return err
		}
		if asJSON {
			all[st.Dir().Join(p)] = usage(u)
			continue
		}
		fmt.Printf("%14d %14d %14d  %s\n", u.Own, u.Closure, u.Freed, st.Dir().Join(p))
	}
	if asJSON {
		return printJSON(all)
	}
	return nil
}

func storeDiffCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "diff-closures BEFORE AFTER",
		Short: "Tell what is different between two closures",
		Long: "Prints which packages, and which versions of them, two objects need with everything that they refer to, as\n" +
			"far as that is different, and by how much the size of a package changed, from 8 KiB on.",
		Args: cobra.ExactArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			return g.withStore(c.Context(), true, func(_ *configuration, st *local.Store) error {
				var closures [2]map[nix.StorePath]*nix.PathInfo
				for i, arg := range args {
					p, err := storePathArg(st, arg)
					if err != nil {
						return err
					}
					if closures[i], err = store.ClosureInfos(c.Context(), st, p); err != nil {
						return err
					}
				}
				for _, line := range store.DiffClosures(closures[0], closures[1]) {
					fmt.Println(line)
				}
				return nil
			})
		},
	}
}
