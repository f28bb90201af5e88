// Package narlist writes what is in an archive as JSON, without the content of files: the
// listings (HASH.ls) of binary caches (Nix: libutil/nar-accessor, listNar).
package narlist

import (
	"bufio"
	"encoding/json"
	"io"
	"strconv"
	"strings"

	"github.com/kilnbuild/kiln/nix/nar"
)

// Options are the choices for a listing.
type Options struct {
	Limits nar.Limits
	// File, if set, is called with the path of each regular file, relative to the root.
	File func(path string)
}

// Write reads an archive to its end and writes its listing to w. Memory grows with
// neither. After an error what was written is not to be used.
func Write(w io.Writer, archive io.Reader, opts Options) error {
	out := writer{bufio.NewWriter(w)}
	r := nar.NewReader(bufio.NewReader(archive), opts.Limits)
	out.WriteString(`{"version":1,"root":`)
	open := 0      // directories
	first := false // of the entries of the innermost
	for {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		for ; open > h.Depth; open-- {
			out.WriteString("}}")
			first = false
		}
		if h.Depth > 0 {
			if !first {
				out.WriteByte(',')
			}
			out.text(h.Name)
			out.WriteByte(':')
		}
		first = false
		switch h.Type {
		case nar.Directory:
			out.WriteString(`{"type":"directory","entries":{`)
			open, first = open+1, true
		case nar.Symlink:
			out.WriteString(`{"type":"symlink","target":`)
			out.text(h.Target)
			out.WriteByte('}')
		default:
			out.file(h, r.Offset())
			if opts.File != nil {
				opts.File(r.Path())
			}
		}
	}
	out.WriteString(strings.Repeat("}}", open) + "}")
	return out.Flush()
}

type writer struct{ *bufio.Writer }

// file writes a regular file, whose content begins at an offset of the archive. Nix
// gives 0 where there is none.
func (w writer) file(h nar.Header, offset int64) {
	w.WriteString(`{"type":"regular","size":` + strconv.FormatInt(h.Size, 10))
	if h.Executable {
		w.WriteString(`,"executable":true`)
	}
	w.WriteString(`,"narOffset":` + strconv.FormatInt(offset, 10) + "}")
}

// text writes a name or target. What is not UTF-8 in it is replaced, as JSON has no
// bytes.
func (w writer) text(s string) {
	e := json.NewEncoder(trimmed{w.Writer})
	e.SetEscapeHTML(false)
	_ = e.Encode(s) // of a text it has no error, and w keeps those of writing
}

// trimmed leaves out the end of the line that an Encoder adds.
type trimmed struct{ w io.Writer }

func (t trimmed) Write(p []byte) (int, error) {
	if _, err := t.w.Write(p[:len(p)-1]); err != nil {
		return 0, err
	}
	return len(p), nil
}
