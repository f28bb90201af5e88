package docs

import (
	"fmt"
	"strings"
)

// markdownWidth is how long lines of pages are at most, where there is a blank to
// break them at.
const markdownWidth = 140

// markdown writes a page as Markdown.
func markdown(page []block) string {
	var b strings.Builder
	for i, p := range page {
		if i > 0 && (p.kind != item && p.kind != contents || p.kind != page[i-1].kind) {
			b.WriteByte('\n')
		}
		switch p.kind {
		case heading:
			fmt.Fprintf(&b, "%s %s\n", strings.Repeat("#", p.level), p.text)
		case item, contents:
			b.WriteString("* " + wrap(p.text, markdownWidth-2, "  "))
		case code:
			for line := range strings.SplitSeq(p.text, "\n") {
				b.WriteString(strings.TrimRight("    "+line, " ") + "\n")
			}
		default:
			b.WriteString(wrap(p.text, markdownWidth, ""))
		}
	}
	return b.String()
}

// wrap breaks a paragraph into lines. Lines after the first begin with indent.
func wrap(text string, width int, indent string) string {
	var b strings.Builder
	column := 0
	for i, word := range strings.Fields(text) {
		n := len([]rune(word))
		switch {
		case i == 0:
		// At the beginning of a line some words would mean something else.
		case column+1+n > width && !strings.ContainsAny(word[:1], "#>*+-|0123456789"):
			b.WriteString("\n" + indent)
			column = 0
		default:
			b.WriteByte(' ')
			column++
		}
		b.WriteString(word)
		column += n
	}
	b.WriteByte('\n')
	return b.String()
}
