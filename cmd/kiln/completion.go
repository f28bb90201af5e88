package main

import (
	"os"
	"strings"

	"github.com/kilnbuild/kiln/nix/conf"
	"github.com/kilnbuild/kiln/progress"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

func completionCommand() *cobra.Command {
	shells := []string{"bash", "zsh", "fish", "powershell"}
	return &cobra.Command{
		Use:   "completion " + strings.Join(shells, "|"),
		Short: "Print what a shell needs to complete kiln's command lines",
		Long: "Prints a script for a shell, after which it completes kiln's commands, flags, settings, store paths and\n" +
			"outputs. Put its output where the shell looks for such scripts; in bash, which needs the package\n" +
			"bash-completion for it, in zsh, and in fish:\n\n" +
			"    kiln completion bash > ~/.local/share/bash-completion/completions/kiln\n" +
			"    kiln completion zsh > DIRECTORY/_kiln    # one of those in $fpath\n" +
			"    kiln completion fish > ~/.config/fish/completions/kiln.fish\n\n" +
			"In PowerShell:\n\n" +
			"    kiln completion powershell | Out-String | Invoke-Expression",
		ValidArgs: shells,
		Args:      cobra.MatchAll(cobra.ExactArgs(1), cobra.OnlyValidArgs),
		RunE: func(c *cobra.Command, args []string) error {
			root := c.Root()
			switch args[0] {
			case "bash":
				return root.GenBashCompletionV2(os.Stdout, true)
			case "zsh":
				return root.GenZshCompletion(os.Stdout)
			case "fish":
				return root.GenFishCompletion(os.Stdout, true)
			}
			return root.GenPowerShellCompletionWithDesc(os.Stdout)
		},
	}
}

// completing tells whether a shell asks how a command line may go on.
func completing(words []string) bool {
	return len(words) > 1 && (words[0] == cobra.ShellCompRequestCmd || words[0] == cobra.ShellCompNoDescRequestCmd)
}

// prepareCompletion is prepareWords for such a question, and tells root what may
// stand where. The last word is the one that is being typed. No other command
// line needs any of this.
func prepareCompletion(root *cobra.Command, words []string) []string {
	last := len(words) - 1
	typed := words[last]
	// Nobody who only wants to see the flags of a command wants to see all settings.
	if typed != "-" && typed != "--" {
		addSettingFlags(root)
	}
	completeFlags(root)
	completeArguments(root)
	if last >= 3 && words[last-2] == "--option" && words[last-3] != "--option" {
		typed, last = "--option="+words[last-1]+"="+typed, last-2
	}
	return append(append(words[:1:1], prepareWords(root, words[1:last])...), typed)
}

// addSettingFlags makes flags of settings, which prepareWords reads without any.
func addSettingFlags(root *cobra.Command) {
	known := flagNames(root)
	g := &globals{} // takes what nobody asks for
	for d := range conf.Definitions() {
		if d.Status != conf.Honoured || known[d.Name] {
			continue
		}
		usage, _, _ := strings.Cut(d.Doc, ". ")
		kind := &settingFlag{g: g, flag: d.Name, setting: d.Name}
		flag := root.PersistentFlags().VarPF(kind, d.Name, "", strings.TrimSuffix(usage, "."))
		if d.Type == conf.TypeBool {
			kind.kind, flag.NoOptDefVal = "bool", "true"
		}
		if extra := "extra-" + d.Name; d.Type.Extensible() && !known[extra] {
			root.PersistentFlags().Var(kind, extra, "Add to "+d.Name)
		}
	}
}

// completeFlags says what the values of flags may be, where that is not any file.
func completeFlags(root *cobra.Command) {
	values := map[string][]string{
		"mode": {"nar", "flat", "text"}, "hash-algo": {"blake3", "md5", "sha1", "sha256", "sha512"}, "rebuild": nil, "name": nil,
	}
	for _, f := range progress.Formats() {
		values["log-format"] = append(values["log-format"], string(f))
	}
	visit := func(c *cobra.Command, f *pflag.Flag) {
		var err error
		if d, ok := conf.Lookup(strings.TrimPrefix(f.Name, "extra-")); ok && f.Name != "store" {
			if list, known := settingValues(d); known {
				err = c.RegisterFlagCompletionFunc(f.Name, oneOf(list))
			}
		} else if list, known := values[f.Name]; known {
			err = c.RegisterFlagCompletionFunc(f.Name, oneOf(list))
		}
		if err != nil {
			panic(err) // there is no such flag, or it was registered before
		}
	}
	var walk func(c *cobra.Command)
	walk = func(c *cobra.Command) {
		c.LocalNonPersistentFlags().VisitAll(func(f *pflag.Flag) { visit(c, f) })
		for _, sub := range c.Commands() {
			walk(sub)
		}
	}
	root.PersistentFlags().VisitAll(func(f *pflag.Flag) { visit(root, f) })
	walk(root)
	if err := root.RegisterFlagCompletionFunc("option", completeOption); err != nil {
		panic(err)
	}
	if err := root.MarkPersistentFlagDirname("store"); err != nil {
		panic(err)
	}
}

// completeOption completes the name of a setting, or after NAME= its value.
func completeOption(c *cobra.Command, args []string, typed string) ([]string, cobra.ShellCompDirective) {
	if name, value, found := strings.Cut(typed, "="); found {
		if d, ok := conf.Lookup(strings.TrimPrefix(name, "extra-")); ok {
			if list, known := settingValues(d); known {
				return oneOf(list)(c, args, value)
			}
		}
		return nil, cobra.ShellCompDirectiveDefault
	}
	var names []string
	for d := range conf.Definitions() {
		if d.Status == conf.Honoured {
			usage, _, _ := strings.Cut(d.Doc, ". ")
			names = append(names, cobra.CompletionWithDesc(d.Name, usage))
		}
	}
	return oneOf(names)(c, args, typed)
}

// settingValues lists what a setting may be. known is false where it may be a file,
// and the list is empty where it may be anything.
func settingValues(d *conf.Definition) (values []string, known bool) {
	switch d.Type {
	case conf.TypeBool:
		return []string{"true", "false"}, true
	case conf.TypeChoice:
		return d.Choices, true
	case conf.TypeJobs:
		return []string{"auto"}, true
	case conf.TypePath, conf.TypeOptionalPath, conf.TypeString, conf.TypeList, conf.TypeSandboxPaths, conf.TypeStore:
		return nil, false
	}
	return nil, true
}

// oneOf completes to one of a list of words.
func oneOf(list []string) cobra.CompletionFunc {
	return func(_ *cobra.Command, _ []string, typed string) ([]string, cobra.ShellCompDirective) {
		var fit []string
		for _, word := range list {
			if strings.HasPrefix(word, typed) {
				fit = append(fit, word)
			}
		}
		return fit, cobra.ShellCompDirectiveNoFileComp
	}
}
