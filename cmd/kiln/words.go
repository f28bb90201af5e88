package main

import (
	"strconv"
	"strings"

	"github.com/kilnbuild/kiln/nix/conf"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// prepareWords turns what Nix's commands take and the flag parser does not into
// what it does: the two words after --option, the number after --rebuild, and each
// setting of nix.conf as a flag of its own. What follows "--" is left alone.
func prepareWords(root *cobra.Command, words []string) []string {
	known := flagNames(root)
	var prepared []string
	for i := 0; i < len(words); i++ {
		word := words[i]
		if word == "--" {
			return append(prepared, words[i:]...)
		}
		name, isFlag := strings.CutPrefix(word, "--")
		switch {
		case word == "--option" && i+2 < len(words):
			prepared = append(prepared, "--option", words[i+1]+"="+words[i+2])
			i += 2
		case word == "--rebuild" && i+1 < len(words) && isNumber(words[i+1]):
			prepared = append(prepared, "--rebuild="+words[i+1])
			i++
		case isFlag && !known[flagName(name)]:
			option, taken := settingWord(name, words[i+1:])
			if option == "" {
				option = word
			} else {
				prepared = append(prepared, "--option")
			}
			prepared = append(prepared, option)
			i += taken
		default:
			prepared = append(prepared, word)
		}
	}
	return prepared
}

func isNumber(word string) bool {
	_, err := strconv.ParseUint(word, 10, 31)
	return err == nil
}

// flagNames are the flags that commands have.
func flagNames(root *cobra.Command) map[string]bool {
	names := map[string]bool{"help": true, "version": true}
	var visit func(*cobra.Command)
	visit = func(c *cobra.Command) {
		for _, set := range []*pflag.FlagSet{c.Flags(), c.PersistentFlags()} {
			set.VisitAll(func(f *pflag.Flag) { names[f.Name] = true })
		}
		for _, sub := range c.Commands() {
			visit(sub)
		}
	}
	visit(root)
	return names
}

func flagName(word string) string {
	name, _, _ := strings.Cut(word, "=")
	return name
}

// settingWord reads a flag for a setting: "name" or "no-name" for those that are
// true or false, "name=value" or "name" and a word more for the others. It gives
// "NAME=VALUE", and how many more words that took; "" if there is no such setting.
func settingWord(flag string, more []string) (option string, taken int) {
	switch flag {
	case "sandbox", "no-sandbox", "relaxed-sandbox":
		return "sandbox=" + map[string]string{"sandbox": "true", "no-sandbox": "false", "relaxed-sandbox": "relaxed"}[flag], 0
	}
	name, value, given := strings.Cut(flag, "=")
	if setting, negated := strings.CutPrefix(name, "no-"); negated && !given {
		if d, ok := conf.Lookup(setting); ok && d.Type == conf.TypeBool {
			return setting + "=false", 0
		}
	}
	plain, adds := strings.CutPrefix(name, "extra-")
	d, ok := conf.Lookup(name)
	if !ok && adds {
		d, ok = conf.Lookup(plain)
		ok = ok && d.Type.Extensible()
	}
	switch {
	case !ok:
		return "", 0
	case given:
		return name + "=" + value, 0
	case d.Type == conf.TypeBool:
		return name + "=true", 0
	case len(more) == 0:
		return "", 0
	}
	return name + "=" + more[0], 1
}
