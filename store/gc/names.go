package gc

import (
	"bytes"

	"github.com/kilnbuild/kiln/nix"
)

// names finds the names of store objects in texts.
type names struct {
	prefixes [][]byte // a store directory and a slash
}

// newNames finds objects below directories of a store: that by which they are known,
// and that in which they are on this machine.
func newNames(dirs ...string) *names {
	n := &names{}
	for i, dir := range dirs {
		if i == 0 || dir != dirs[0] {
			n.prefixes = append(n.prefixes, []byte(dir+"/"))
		}
	}
	return n
}

// of gives the object that a path leads to or into, "" for none.
func (n *names) of(path []byte) nix.StorePath {
	for _, prefix := range n.prefixes {
		if rest, ok := bytes.CutPrefix(path, prefix); ok {
			return object(rest)
		}
	}
	return ""
}

// in calls yield for each object whose path is somewhere in a text.
func (n *names) in(text []byte, yield func(nix.StorePath)) {
	for _, prefix := range n.prefixes {
		last := ""
		for rest := text; ; {
			i := bytes.Index(rest, prefix)
			if i < 0 {
				break
			}
			rest = rest[i+len(prefix):]
			// The same one comes again and again: a library is mapped in parts.
			if len(last) > 0 && bytes.HasPrefix(rest, []byte(last)) && !isNameByte(at(rest, len(last))) {
				continue
			}
			if p := object(rest); p != "" {
				last = string(p)
				yield(p)
			}
		}
	}
}

func at(text []byte, i int) byte {
	if i < len(text) {
		return text[i]
	}
	return 0
}

// object reads the name of an object at the beginning of a text.
func object(text []byte) nix.StorePath {
	end := 0
	for end < len(text) && end <= nix.HashPartLen+1+nix.MaxNameLen && isNameByte(text[end]) {
		end++
	}
	p, err := nix.ParseStorePath(string(text[:end]))
	if err != nil {
		return ""
	}
	return p
}

// nameBytes are the characters of names.
var nameBytes = func() (set [256]bool) {
	for _, c := range []byte("0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ+-._?=") {
		set[c] = true
	}
	return set
}()

func isNameByte(c byte) bool { return nameBytes[c] }
