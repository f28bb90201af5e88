package docs

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// roffWidth is how long lines of the source are at most: mandoc minds longer ones.
const roffWidth = 78

// roff writes a manual page in the macros of man(7). The page begins after its
// heading; headings of level 2 become sections, deeper ones subsections.
func roff(title, section, date string, page []block) string {
	var b strings.Builder
	fmt.Fprintf(&b, ".\\\" Written by make docs.\n.TH %s %s %s kiln \"kiln manual\"\n", strings.ToUpper(title), section, date)
	fresh := true // nothing to be parted from what comes
	for i, p := range page {
		switch p.kind {
		case contents:
		case heading:
			if p.level < 2 {
				continue
			}
			macro, text := ".SH", strings.ToUpper(p.text)
			if p.level > 2 {
				macro, text = ".SS", p.text
			}
			fmt.Fprintf(&b, "%s %s\n", macro, inline(text))
			fresh = true
			continue
		case item:
			b.WriteString(".IP \\(bu 2\n" + lines(p.text))
		case term:
			b.WriteString(".TP\n" + inline(p.text) + "\n")
			fresh = true
			continue
		case code:
			if !fresh {
				b.WriteString(".PP\n")
			}
			b.WriteString(".RS 4\n.EX\n")
			for line := range strings.SplitSeq(p.text, "\n") {
				b.WriteString(guard(escape(line, true)) + "\n")
			}
			b.WriteString(".EE\n.RE\n")
		case paragraph:
			if !fresh && (i == 0 || page[i-1].kind != term) {
				b.WriteString(".PP\n")
			}
			b.WriteString(lines(p.text))
		}
		fresh = false
	}
	return b.String()
}

// lines are lines of running text.
func lines(text string) string {
	var b strings.Builder
	for line := range strings.Lines(wrap(inline(text), roffWidth, "")) {
		b.WriteString(guard(line))
	}
	return b.String()
}

// guard keeps a line of text from being read as a request.
func guard(line string) string {
	if strings.HasPrefix(line, ".") || strings.HasPrefix(line, "'") {
		return `\&` + line
	}
	return line
}

// inline turns the marks within a paragraph into changes of fonts. Code is bold.
// Of a link the text is left.
func inline(text string) string {
	var b strings.Builder
	for i, part := range strings.Split(text, "`") {
		if i%2 == 1 {
			// A hyphen that roff adds would be copied by somebody.
			words := strings.Split(escape(part, true), " ")
			b.WriteString(`\fB\%` + strings.Join(words, ` \%`) + `\fP`)
			continue
		}
		for {
			before, rest, found := strings.Cut(part, "[")
			label, rest, isLink := strings.Cut(rest, "](")
			_, rest, closed := strings.Cut(rest, ")")
			if !found || !isLink || !closed {
				break
			}
			b.WriteString(escape(before+label, false))
			part = rest
		}
		b.WriteString(escape(part, false))
	}
	return b.String()
}

// escape keeps text from meaning anything to roff. What is to be typed has real
// hyphens, which break no lines.
func escape(text string, typed bool) string {
	var b strings.Builder
	for _, r := range text {
		switch {
		case r == '\\':
			b.WriteString(`\e`)
		case r == '-' && typed:
			b.WriteString(`\-`)
		case r == '–':
			b.WriteString(`\-`) // between name and purpose, where programs look for it
		case r == '~' || r == '^' || r == '`':
			b.WriteString(map[rune]string{'~': `\(ti`, '^': `\(ha`, '`': `\(ga`}[r])
		case r >= utf8.RuneSelf:
			fmt.Fprintf(&b, `\[u%04X]`, r)
		default:
			b.WriteRune(r)
		}
	}
	return b.String()
}
