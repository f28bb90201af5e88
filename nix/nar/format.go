package nar

import (
	"encoding/binary"
	"fmt"
	"strings"
)

// Type is the type of a node.
type Type uint8

// The types of nodes.
const (
	Regular Type = iota + 1
	Directory
	Symlink
)

func (t Type) String() string {
	switch t {
	case Regular:
		return "regular"
	case Directory:
		return "directory"
	case Symlink:
		return "symlink"
	}
	return fmt.Sprintf("Type(%d)", uint8(t))
}

// Lengths that the format allows, in bytes. They are those of current Nix, and
// what Linux allows on disk.
const (
	MaxName   = 255  // of the name of a directory entry
	MaxTarget = 4095 // of the target of a symbolic link
	maxTag    = 32   // of one of the words that structure an archive
)

// Header describes one node of an archive. Nodes follow each other as in a walk
// that takes each directory before its entries, and the entries in the order of
// the bytes of their names.
type Header struct {
	// Name is the name in the directory that holds the node: the latest one
	// before it whose depth is less by one. It is empty for the root.
	Name string

	// Depth is the number of directories above the node, 0 for the root.
	Depth int

	Type       Type
	Executable bool   // of a regular file
	Size       int64  // bytes of content, of a regular file
	Target     string // of a symbolic link
}

// Limits bounds what a Reader accepts. The zero value of each field stands for
// what is said there.
type Limits struct {
	// Depth is the greatest Header.Depth. Zero stands for DefaultDepth.
	Depth int

	// Path is the greatest length in bytes of the path of a node below the root,
	// slashes included. Zero stands for DefaultPath.
	Path int

	// Entries is the greatest number of nodes. Zero stands for no limit: memory
	// does not grow with it.
	Entries int64

	// Size is the greatest length in bytes of the whole archive. Zero stands for
	// no limit: memory does not grow with it.
	Size int64
}

// Limits that a zero field of Limits stands for. A Reader keeps the path of the
// node that it is at, and nothing else that grows.
const (
	// DefaultDepth is more than any package has. Nix itself refuses more than 64
	// since 2.34.8.
	DefaultDepth = 1024

	DefaultPath = 64 << 10
)

func (l Limits) withDefaults() Limits {
	if l.Depth == 0 {
		l.Depth = DefaultDepth
	}
	if l.Path == 0 {
		l.Path = DefaultPath
	}
	return l
}

// FormatError says that what a Reader read is no archive, or one beyond the
// limits. An archive that ends too early is io.ErrUnexpectedEOF instead.
type FormatError struct {
	Offset int64  // where in the archive, in bytes, the first wrong thing begins
	Path   string // the node that was being read, relative to the root
	Reason string
}

func (e *FormatError) Error() string {
	if e.Path == "" {
		return fmt.Sprintf("bad archive: %s at byte %d", e.Reason, e.Offset)
	}
	return fmt.Sprintf("bad archive: %s at byte %d, in %q", e.Reason, e.Offset, clip(e.Path))
}

// clip shortens a path for a message. Its end says more than its beginning.
func clip(path string) string {
	const most = 200
	if len(path) > most {
		return "…" + path[len(path)-most:]
	}
	return path
}

// The words of the format, as they stand in an archive: the length in eight
// bytes, the lowest first, the word, and NULs up to a multiple of eight bytes.
const (
	wordMagic      = "\x0d\x00\x00\x00\x00\x00\x00\x00nix-archive-1\x00\x00\x00"
	wordOpen       = "\x01\x00\x00\x00\x00\x00\x00\x00(\x00\x00\x00\x00\x00\x00\x00"
	wordClose      = "\x01\x00\x00\x00\x00\x00\x00\x00)\x00\x00\x00\x00\x00\x00\x00"
	wordType       = "\x04\x00\x00\x00\x00\x00\x00\x00type\x00\x00\x00\x00"
	wordRegular    = "\x07\x00\x00\x00\x00\x00\x00\x00regular\x00"
	wordDirectory  = "\x09\x00\x00\x00\x00\x00\x00\x00directory\x00\x00\x00\x00\x00\x00\x00"
	wordSymlink    = "\x07\x00\x00\x00\x00\x00\x00\x00symlink\x00"
	wordExecutable = "\x0a\x00\x00\x00\x00\x00\x00\x00executable\x00\x00\x00\x00\x00\x00"
	wordContents   = "\x08\x00\x00\x00\x00\x00\x00\x00contents"
	wordTarget     = "\x06\x00\x00\x00\x00\x00\x00\x00target\x00\x00"
	wordEntry      = "\x05\x00\x00\x00\x00\x00\x00\x00entry\x00\x00\x00"
	wordName       = "\x04\x00\x00\x00\x00\x00\x00\x00name\x00\x00\x00\x00"
	wordNode       = "\x04\x00\x00\x00\x00\x00\x00\x00node\x00\x00\x00\x00"
	wordEmpty      = "\x00\x00\x00\x00\x00\x00\x00\x00"
)

// padding is the number of NULs after n bytes.
func padding(n int64) int { return int(-n & 7) }

// checkName gives the reason why name cannot be that of a directory entry, or "".
func checkName(name string) string {
	switch {
	case name == "":
		return "empty name"
	case len(name) > MaxName:
		return fmt.Sprintf("name of %d bytes, at most %d are allowed", len(name), MaxName)
	case name == "." || name == ".." || strings.ContainsAny(name, "/\x00"):
		return fmt.Sprintf("invalid name %q", name)
	}
	return ""
}

// checkTarget gives the reason why target cannot be that of a symbolic link.
func checkTarget(target string) string {
	switch {
	case target == "":
		return "empty symlink target"
	case len(target) > MaxTarget:
		return fmt.Sprintf("symlink target of %d bytes, at most %d are allowed", len(target), MaxTarget)
	case strings.IndexByte(target, 0) >= 0:
		return "NUL in symlink target"
	}
	return ""
}

// mismatch says how got, which is not want, differs from it. want is whole
// words; got has the same length. The offset is that of the first word that
// differs.
func mismatch(got []byte, want string) (offset int, reason string) {
	for {
		n := binary.LittleEndian.Uint64([]byte(want))
		size := 8 + int(n) + padding(int64(n))
		if string(got[offset:offset+size]) != want[:size] {
			return offset, wrongWord(got[offset:], want[8:8+n])
		}
		offset, want = offset+size, want[size:]
	}
}

// wrongWord says what stands at the beginning of got, where one of the words
// want should.
func wrongWord(got []byte, want ...string) string {
	n := binary.LittleEndian.Uint64(got)
	expected := fmt.Sprintf(`expected "%s"`, strings.Join(want, `" or "`))
	if n > maxTag {
		return fmt.Sprintf("%s, found a word of %d bytes (at most %d are allowed)", expected, n, maxTag)
	}
	got = got[8:]
	if uint64(len(got)) < n {
		return fmt.Sprintf("%s, found a word of %d bytes that begins with %q", expected, n, got)
	}
	for _, w := range want {
		if string(got[:n]) == w {
			return fmt.Sprintf("padding of %q is not zero", w)
		}
	}
	return fmt.Sprintf("%s, found %q", expected, got[:n])
}
