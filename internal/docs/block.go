package docs

import (
	"fmt"
	"strings"
)

// A block is a piece of a page. Its text has the inline marks of Markdown that
// Roff knows: `code` and [links](target).
type block struct {
	kind  kind
	level int // of a heading, from 1
	text  string
}

type kind int

const (
	heading kind = iota
	paragraph
	item
	term // what the paragraph after it explains
	code // lines as they are
	// contents is for the Markdown form only: manual pages are short of ways to
	// follow a link.
	contents
)

// parse reads the part of Markdown in which text/ is written: headings with #,
// paragraphs, items with * that are one level deep, and code indented by four
// blanks. Blank lines part them; items need none.
func parse(text string) ([]block, error) {
	var all []block
	open := false // a paragraph or item goes on
	for n, line := range strings.Split(text, "\n") {
		last := len(all) - 1
		switch {
		case strings.TrimSpace(line) == "":
			if open = false; last >= 0 && all[last].kind == code {
				all[last].text += "\n" // taken away below if it ends the code
			}
		case strings.HasPrefix(line, "#"):
			level := len(line) - len(strings.TrimLeft(line, "#"))
			all, open = append(all, block{heading, level, strings.TrimSpace(line[level:])}), false
		case strings.HasPrefix(line, "    "):
			if last >= 0 && all[last].kind == code {
				all[last].text += line[4:] + "\n"
			} else {
				all = append(all, block{kind: code, text: line[4:] + "\n"})
			}
			open = false
		case strings.HasPrefix(line, "* "):
			all, open = append(all, block{kind: item, text: line[2:]}), true
		case strings.HasPrefix(line, "|"), strings.HasPrefix(line, "```"), strings.HasPrefix(line, "- "):
			return nil, fmt.Errorf("line %d: tables, fences and other marks of items are not known here: %q", n+1, line)
		case open:
			all[last].text += " " + strings.TrimSpace(line)
		default:
			all, open = append(all, block{kind: paragraph, text: strings.TrimSpace(line)}), true
		}
	}
	for i := range all {
		if all[i].kind == code {
			all[i].text = strings.TrimRight(all[i].text, "\n")
		}
	}
	return all, nil
}
