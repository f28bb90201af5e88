package main

import (
	"errors"
	"fmt"
	"os"
	"text/tabwriter"

	"github.com/kilnbuild/kiln/executor/build"
	"github.com/kilnbuild/kiln/sandbox"
	"github.com/spf13/cobra"
)

func doctorCommand(g *globals) *cobra.Command {
	return &cobra.Command{
		Use:   "doctor",
		Short: "Say what isolation this machine gives, and what to do about what is missing",
		Long: "Tries everything that sandboxes are made of, prints what works, and says how to get what does not.\n" +
			"The exit code is 1 when builders cannot be isolated.",
		Args: cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) (err error) {
			conf, err := g.configure()
			if err != nil {
				return err
			}
			launcher := sandbox.NewLauncher()
			defer func() { err = errors.Join(err, launcher.Close()) }()
			checks := launcher.Probe(c.Context())
			printChecks(append(checks, buildUsersCheck(conf)))
			if !sandbox.Sandboxes(checks) {
				return &exitError{code: 1, err: errors.New("builders cannot be isolated here: see what is marked 'missing' above")}
			}
			fmt.Printf("\nBuilders can be isolated; store: %s\n", conf.local.Real)
			return nil
		},
	}
}

// buildUsersCheck says who builders run as.
func buildUsersCheck(conf *configuration) sandbox.Check {
	c := sandbox.Check{Name: "build users", OK: true}
	users, err := build.NewUsers(conf.usersConfig())
	if err != nil {
		c.OK, c.Found, c.Remedy = false, err.Error(), "correct build-users-group"
		return c
	}
	c.Found = users.Describe()
	return c
}

func printChecks(checks []sandbox.Check) {
	t := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	for _, c := range checks {
		state := "ok"
		switch {
		case !c.OK && c.Needed:
			state = "missing"
		case !c.OK:
			state = "lacking"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\n", c.Name, state, c.Found)
		if !c.OK && c.Remedy != "" {
			fmt.Fprintf(t, "\t\t→ %s\n", c.Remedy)
		}
	}
	t.Flush()
}
