package docs

import (
	"embed"
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/kilnbuild/kiln/nix/conf"
)

//go:embed text
var written embed.FS

// byHand reads a page of text/.
func byHand(name string) ([]block, error) {
	text, err := written.ReadFile("text/" + name)
	if err != nil {
		return nil, err
	}
	page, err := parse(string(text))
	if err != nil {
		return nil, fmt.Errorf("text/%s: %w", name, err)
	}
	return page, nil
}

// Settings gives docs/configuration.md and kiln-settings(5). Settings of which
// idle is true are known but do nothing yet. A setting that has no place in groups
// is an error. date is that of the manual page, as 2006-01-02.
func Settings(idle func(name string) bool, date string) (md, manual string, err error) {
	page, err := byHand("settings.md")
	if err != nil {
		return "", "", err
	}
	if err := checkGroups(); err != nil {
		return "", "", err
	}
	page = append(page, listGroups()...)
	for _, g := range groups {
		page = append(page, block{heading, 2, g.title})
		for _, name := range g.names {
			d, _ := conf.Lookup(name)
			page = append(page, describe(d, idle(name))...)
		}
	}
	page = append(page, unused(conf.Unsupported, "Settings that are not supported",
		"A value other than the default is worth a warning, and has no effect.")...)
	page = append(page, unused(conf.Ignored, "Settings that are left alone",
		"These are about parts of Nix that kiln does not have, such as its language and its other commands. No build depends on them.")...)

	manualPage := append([]block{
		{heading, 2, "Name"},
		{paragraph, 0, "kiln-settings – the settings of kiln, and where they come from"},
		{heading, 2, "Description"},
	}, page[1:]...)
	manualPage = append(manualPage, block{heading, 2, "See also"}, block{paragraph, 0, "`kiln`(1), `kiln-build`(1)"})
	return "<!-- Written by make docs, from nix/conf and internal/docs/text/settings.md. -->\n\n" + markdown(page),
		roff("kiln-settings", "5", date, manualPage), nil
}

// checkGroups wants each honoured setting in one group.
func checkGroups() error {
	seen := make(map[string]bool)
	for _, g := range groups {
		for _, name := range g.names {
			d, ok := conf.Lookup(name)
			if !ok || d.Name != name || d.Status != conf.Honoured || seen[name] {
				return fmt.Errorf("internal/docs/groups.go, %q: %q is there twice, or no name of a setting that is honoured", g.title, name)
			}
			seen[name] = true
		}
	}
	for d := range conf.Definitions() {
		if d.Status == conf.Honoured && !seen[d.Name] {
			return fmt.Errorf("the setting %q is in no group: enter it in internal/docs/groups.go", d.Name)
		}
	}
	return nil
}

// listGroups is a table of contents.
func listGroups() []block {
	var list []block
	for _, g := range groups {
		var links []string
		for _, name := range g.names {
			links = append(links, "["+name+"](#"+name+")")
		}
		list = append(list, block{contents, 0, g.title + ": " + strings.Join(links, ", ")})
	}
	return list
}

// describe is the entry of a setting.
func describe(d *conf.Definition, idle bool) []block {
	var about []string
	say := func(format string, args ...any) { about = append(about, fmt.Sprintf(format, args...)+".") }
	if d.Own {
		say("Own")
	}
	kind := d.Type.String()
	if len(d.Choices) > 0 {
		kind = "one of " + quoteAll(d.Choices)
	}
	if d.Type.Extensible() {
		kind += ", extended by `extra-" + d.Name + "`"
	}
	say("%s", capital(kind))
	switch {
	case d.DefaultText != "":
		say("Default: %s", d.DefaultText)
	case d.Default == "":
		say("Default: empty")
	default:
		say("Default: `%s`", d.Default)
	}
	if len(d.Aliases) > 0 {
		say("Once called %s", quoteAll(d.Aliases))
	}
	if d.Feature != "" {
		say("Needs the experimental feature `%s`", d.Feature)
	}
	switch d.Untrusted {
	case conf.Allowed:
		say("Users who are not trusted may set it")
	case conf.EmptyOK:
		say("Users who are not trusted may empty it")
	case conf.Filtered:
		say("Users who are not trusted may choose from what is trusted")
	}
	entry := []block{{heading, 3, d.Name}, {paragraph, 0, strings.Join(about, " ")}, {paragraph, 0, d.Doc}}
	if idle {
		entry = append(entry, block{paragraph, 0, "This version of kiln reads the setting, but does not act on it yet."})
	}
	return entry
}

// unused lists the settings of a status.
func unused(status conf.Status, title, why string) []block {
	list := []block{{heading, 2, title}, {paragraph, 0, why}}
	for d := range conf.Definitions() {
		if d.Status == status {
			list = append(list, block{item, 0, "`" + d.Name + "`: " + lowerCase(d.Doc)})
		}
	}
	return list
}

func quoteAll(names []string) string {
	quoted := slices.Clone(names)
	for i := range quoted {
		quoted[i] = "`" + quoted[i] + "`"
	}
	return strings.Join(quoted, ", ")
}

func capital(s string) string {
	r, n := utf8.DecodeRuneInString(s)
	return string(unicode.ToUpper(r)) + s[n:]
}

// lowerCase begins a sentence within another one.
func lowerCase(s string) string {
	r, n := utf8.DecodeRuneInString(s)
	return string(unicode.ToLower(r)) + s[n:]
}
