package main

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"strings"

	"github.com/hinshun/vt10x"
)

// Measures of the picture, in its own units.
const (
	cellWidth, cellHeight = 8.4, 16.3
	fontSize              = 14
	baseline              = 3.6 // above the lower edge of a cell
	margin, titleHeight   = 14.0, 30.0
)

// Bits of vt10x's Glyph.Mode, which has no names for them.
const (
	modeUnderline = 2
	modeBold      = 4
	modeItalic    = 16
)

// palette has the first sixteen colours, readable on the background.
var palette = [16]string{
	"#3b4252", "#e06c75", "#98c379", "#e5c07b", "#61afef", "#c678dd", "#56b6c2", "#abb2bf",
	"#7f848e", "#e06c75", "#98c379", "#e5c07b", "#61afef", "#c678dd", "#56b6c2", "#ffffff",
}

const background, foreground = "#1e2127", "#d7dae0"

// svg draws the screen in a window, without the empty lines at its end.
func (s *screen) svg(title string) []byte {
	rows := s.rows[:strings.Count(s.String(), "\n")]
	width := float64(s.columns)*cellWidth + 2*margin
	height := float64(len(rows))*cellHeight + 2*margin + titleHeight
	var b bytes.Buffer
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%.0f" height="%.0f" viewBox="0 0 %.0f %.0f">`+"\n", width, height, width, height)
	fmt.Fprintf(&b, `<rect width="100%%" height="100%%" rx="8" fill="%s"/>`+"\n", background)
	for i, c := range []string{"#e06c75", "#e5c07b", "#98c379"} {
		fmt.Fprintf(&b, `<circle cx="%d" cy="18" r="5" fill="%s"/>`+"\n", 20+18*i, c)
	}
	fmt.Fprintf(&b, `<text x="50%%" y="22" text-anchor="middle" fill="%s" font-family="sans-serif" font-size="12">%s</text>`+"\n", palette[8], escaped(title))
	fmt.Fprintf(&b, `<g font-family="ui-monospace,'DejaVu Sans Mono',Menlo,Consolas,monospace" font-size="%d" fill="%s" xml:space="preserve">`+"\n", fontSize, foreground)
	for y, row := range rows {
		line := titleHeight + margin + float64(y+1)*cellHeight - baseline
		for x := 0; x < len(row); {
			end := x + 1
			for end < len(row) && looks(row[end]) == looks(row[x]) {
				end++
			}
			drawRun(&b, row[x:end], margin+float64(x)*cellWidth, line)
			x = end
		}
	}
	b.WriteString("</g>\n</svg>\n")
	return b.Bytes()
}

// looks is a glyph without its character.
func looks(g vt10x.Glyph) vt10x.Glyph {
	g.Char = 0
	return g
}

// drawRun draws characters that look the same.
func drawRun(b *bytes.Buffer, run []vt10x.Glyph, x, y float64) {
	var text []rune
	for _, g := range run {
		text = append(text, max(g.Char, ' '))
	}
	g := run[0]
	if c, ok := hex(g.BG); ok {
		fmt.Fprintf(b, `<rect x="%.1f" y="%.1f" width="%.1f" height="%.1f" fill="%s"/>`+"\n",
			x, y-cellHeight+baseline, float64(len(text))*cellWidth, cellHeight, c)
	}
	if strings.TrimSpace(string(text)) == "" {
		return
	}
	var attrs string
	if c, ok := hex(g.FG); ok {
		attrs += fmt.Sprintf(` fill="%s"`, c)
	}
	if g.Mode&modeBold != 0 {
		attrs += ` font-weight="bold"`
	}
	if g.Mode&modeItalic != 0 {
		attrs += ` font-style="italic"`
	}
	if g.Mode&modeUnderline != 0 {
		attrs += ` text-decoration="underline"`
	}
	// The length keeps columns in line whatever font there is.
	fmt.Fprintf(b, `<text x="%.1f" y="%.1f" textLength="%.1f" lengthAdjust="spacingAndGlyphs"%s>%s</text>`+"\n",
		x, y, float64(len(text))*cellWidth, attrs, escaped(string(text)))
}

// hex is a colour for SVG. It is false for the terminal's own.
func hex(c vt10x.Color) (string, bool) {
	const cube, grey = 16, 232
	switch {
	case c >= vt10x.DefaultFG:
		return "", false
	case c < cube:
		return palette[c], true
	case c < grey:
		level := func(n vt10x.Color) vt10x.Color { return min(n, 1)*55 + n*40 }
		c -= cube
		return fmt.Sprintf("#%02x%02x%02x", level(c/36), level(c/6%6), level(c%6)), true
	case c < 256:
		c = 8 + 10*(c-grey)
		return fmt.Sprintf("#%02x%02x%02x", c, c, c), true
	}
	return fmt.Sprintf("#%06x", uint32(c)), true
}

func escaped(text string) string {
	var b bytes.Buffer
	xml.EscapeText(&b, []byte(text))
	return b.String()
}
