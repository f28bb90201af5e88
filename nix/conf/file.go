package conf

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
)

// Limits of what Load reads. Beyond one of them it returns an error: a part of a
// configuration is not a configuration.
const (
	MaxFileSize     = 1 << 20 // bytes of a file, or of NIX_CONFIG
	MaxLineLength   = 64 << 10
	MaxIncludeDepth = 16      // files that are open at a time
	MaxFiles        = 256     // files of one source, counting each time
	MaxTotalSize    = 8 << 20 // bytes of them together
)

// assignment is a line "name = value".
type assignment struct {
	name, value string
	source      Source
}

// parser turns one source, with what it includes, into assignments in order.
type parser struct {
	env      Environment
	kind     Kind
	open     []string // the files from the outermost to the one being read
	files    int
	bytes    int
	found    []assignment
	warnings []Warning
}

// parse reads text, which is the content of name: an absolute path, or a word
// that stands for a source that is not a file. The grammar is Nix's
// (nix.conf(5), "Configuration file"): a line is "name = value" in words, or
// "include file"; "#" starts a comment wherever it stands; runs of blanks in a
// value become one space.
func (p *parser) parse(name, text string) error {
	if len(p.open) == MaxIncludeDepth {
		return fmt.Errorf("file %q: more than %d files include one another", name, MaxIncludeDepth)
	}
	if p.files++; p.files > MaxFiles {
		return fmt.Errorf("file %q: more than %d files are included", name, MaxFiles)
	}
	if p.bytes += len(text); p.bytes > MaxTotalSize {
		return fmt.Errorf("file %q: more than %d bytes are included", name, MaxTotalSize)
	}
	p.open = append(p.open, name)
	defer func() { p.open = p.open[:len(p.open)-1] }()

	for number := 1; text != ""; number++ {
		var line string
		line, text, _ = strings.Cut(text, "\n")
		if err := p.line(name, number, line); err != nil {
			return err
		}
	}
	return nil
}

func (p *parser) line(name string, number int, line string) error {
	here := Source{p.kind, name, number}
	if len(line) > MaxLineLength {
		return fmt.Errorf("%v: line is longer than %d bytes", here, MaxLineLength)
	}
	line, _, _ = strings.Cut(line, "#")
	w := words(line)
	wrong := func() error {
		return fmt.Errorf("%v: syntax error in configuration line '%s' in %s", here, line, strconv.Quote(name))
	}
	switch {
	case len(w) == 0:
		return nil
	case len(w) < 2 || strings.ContainsRune(line, 0):
		return wrong()
	case w[0] == "include" || w[0] == "!include":
		if len(w) != 2 {
			return wrong()
		}
		return p.include(here, w[1], w[0] == "!include")
	case w[1] != "=":
		return wrong()
	}
	p.found = append(p.found, assignment{w[0], strings.Join(w[2:], " "), here})
	return nil
}

// include reads another file. A file that is there but cannot be read is left
// out, as in Nix: configurations keep tokens in files that only root may read and
// include them for everybody.
func (p *parser) include(here Source, name string, optional bool) error {
	if !path.IsAbs(name) {
		if !path.IsAbs(here.Name) {
			return fmt.Errorf("%v: cannot include %q: not an absolute path", here, name)
		}
		name = path.Join(path.Dir(here.Name), name)
	}
	name = path.Clean(name)
	if slices.Contains(p.open, name) {
		return fmt.Errorf("%v: file %q includes itself", here, name)
	}
	text, err := p.env.read(name, MaxFileSize)
	switch {
	case err == nil:
		return p.parse(name, string(text))
	case errors.Is(err, errTooLarge):
		return fmt.Errorf("%v: read %q: %w", here, name, err)
	case !absent(err):
		if !optional {
			p.warnings = append(p.warnings, Warning{here, fmt.Sprintf("cannot read %q, leaving it out: %v", name, err)})
		}
	case !optional:
		return fmt.Errorf("%v: file %q included from %q not found", here, name, here.Name)
	}
	return nil
}
