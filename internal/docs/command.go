package docs

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Commands lists the commands that have a manual page, the root first.
func Commands(root *cobra.Command) []*cobra.Command {
	all := []*cobra.Command{root}
	for _, c := range root.Commands() {
		if c.IsAvailableCommand() && c.Name() != "help" {
			all = append(all, Commands(c)...)
		}
	}
	return all
}

// PageName is the name of a command's manual page, as "kiln-build".
func PageName(c *cobra.Command) string { return strings.ReplaceAll(c.CommandPath(), " ", "-") }

// Manual gives a command's page in section 1 of the manual. What text/ has for it
// comes after the flags. date is that of the page, as 2006-01-02.
func Manual(c *cobra.Command, date string) (string, error) {
	c.InitDefaultHelpFlag()
	name := PageName(c)
	page := []block{
		{heading, 2, "Name"},
		{paragraph, 0, name + " – " + lowerCase(c.Short)},
		{heading, 2, "Synopsis"},
		{paragraph, 0, synopsis(c)},
		{heading, 2, "Description"},
	}
	for _, p := range strings.Split(cmp.Or(c.Long, c.Short+"."), "\n\n") {
		if strings.HasPrefix(p, "    ") {
			page = append(page, block{code, 0, strings.ReplaceAll(p[4:], "\n    ", "\n")})
		} else {
			page = append(page, block{paragraph, 0, strings.ReplaceAll(p, "\n", " ")})
		}
	}
	for _, sub := range c.Commands() {
		if sub.IsAvailableCommand() && sub.Name() != "help" {
			if page[len(page)-1].kind != paragraph || page[len(page)-2].kind != term {
				page = append(page, block{heading, 2, "Commands"})
			}
			page = append(page, block{term, 0, "`" + PageName(sub) + "`(1)"}, block{paragraph, 0, sub.Short + "."})
		}
	}
	page = append(page, flags("Flags", c.NonInheritedFlags())...)
	page = append(page, flags("Flags of every command", c.InheritedFlags())...)
	more, err := byHand(name + ".md")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	page = append(page, more...)
	page = append(page, seeAlso(c)...)
	return roff(name, "1", date, page), nil
}

// synopsis is the command line. Words of the user's own choice are in capitals
// already.
func synopsis(c *cobra.Command) string {
	words := strings.Fields(strings.TrimSuffix(c.UseLine(), " [flags]"))
	n := len(strings.Fields(c.CommandPath()))
	text := "`" + strings.Join(words[:n], " ") + "`"
	if c.HasAvailableSubCommands() {
		text += " COMMAND"
	}
	return strings.Join(append([]string{text, "[FLAGS]"}, words[n:]...), " ")
}

// flags is a section on flags.
func flags(title string, set *pflag.FlagSet) []block {
	var section []block
	set.VisitAll(func(f *pflag.Flag) {
		if f.Hidden {
			return
		}
		value, usage := pflag.UnquoteUsage(f)
		if f.Name == "help" {
			usage = "print a summary of the command and its flags"
		}
		text := "`--" + f.Name
		if f.Shorthand != "" {
			text = "`-" + f.Shorthand + "`, " + text
		}
		switch {
		case value == "" || f.Value.Type() == "bool":
			text += "`"
		case f.NoOptDefVal != "":
			text += "`[`=`" + strings.ToUpper(value) + "]"
		default:
			text += "` " + strings.ToUpper(value)
		}
		if f.Value.Type() == "count" {
			text = strings.TrimSuffix(strings.TrimSuffix(text, "[`=`COUNT]"), "`") + "`"
		}
		if d := f.DefValue; d != "" && d != "false" && d != "0" && d != "[]" {
			usage += fmt.Sprintf(" (default: `%s`)", d)
		}
		section = append(section, block{term, 0, text}, block{paragraph, 0, sentence(usage)})
	})
	if section == nil {
		return nil
	}
	return append([]block{{heading, 2, title}}, section...)
}

// sentence makes one of a phrase.
func sentence(s string) string {
	if strings.HasSuffix(s, "?") {
		return capital(s)
	}
	return capital(s) + "."
}

func seeAlso(c *cobra.Command) []block {
	var others []string
	if c.HasParent() {
		others = append(others, "`"+PageName(c.Parent())+"`(1)")
	}
	others = append(others, "`kiln-settings`(5)")
	return []block{{heading, 2, "See also"}, {paragraph, 0, strings.Join(others, ", ")}}
}
