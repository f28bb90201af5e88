package conf

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"
	"syscall"
)

// An Environment is everything outside that settings depend on. The zero value
// is a machine without variables and files. It must not change while it is used;
// then it is safe for concurrent use if its functions are.
type Environment struct {
	// Lookup finds an environment variable; nil finds none.
	Lookup func(name string) (string, bool)
	// Files is the root of the file system, with the rules of io/fs: os.DirFS("/")
	// or, in a test, an fstest.MapFS. Nil is empty.
	Files fs.FS
	// ReadWrite tells whether this process may read and write a path; nil says no.
	ReadWrite func(path string) bool

	OS, Arch  string // as in GOOS and GOARCH
	UID       int    // the real user id
	CPUs      int    // processors that this process may use
	AppleVirt bool   // macOS only: virtual machines can run here
	Home      string // the user's home directory, or "" if there is none
	Dir       string // the working directory; relative names in variables start there
}

func (e Environment) lookup(name string) (string, bool) {
	if e.Lookup == nil {
		return "", false
	}
	return e.Lookup(name)
}

// nonEmpty is for variables that mean nothing when they are empty.
func (e Environment) nonEmpty(name string) (string, bool) {
	v, ok := e.lookup(name)
	return v, ok && v != ""
}

// root tells whether the user is the superuser.
func (e Environment) root() bool { return e.UID == 0 }

// abs makes a name from a variable absolute; "" if it cannot be.
func (e Environment) abs(name string) string {
	switch {
	case path.IsAbs(name):
		return path.Clean(name)
	case path.IsAbs(e.Dir):
		return path.Join(e.Dir, name)
	}
	return ""
}

// pathList splits a variable that holds names with colons between them.
func (e Environment) pathList(list string) []string {
	var names []string
	for name := range strings.SplitSeq(list, ":") {
		if name == "" {
			continue
		}
		if name = e.abs(name); name != "" {
			names = append(names, name)
		}
	}
	return names
}

// userDir gives the directory of Nix's files of one sort in a user's home, by the
// XDG base directory rules: variable itself, or "nix" in the directory that xdg
// names, or in the one that stands for it below the home directory. It is "" if
// there is no home.
func (e Environment) userDir(variable, xdg, standard string) string {
	if v, ok := e.nonEmpty(variable); ok {
		return e.abs(v)
	}
	if v, ok := e.nonEmpty(xdg); ok && path.IsAbs(v) {
		return path.Join(v, "nix")
	}
	if e.Home == "" {
		return ""
	}
	return path.Join(e.abs(e.Home), standard, "nix")
}

// inFS is the name that io/fs has for an absolute path.
func inFS(name string) string {
	if name = strings.TrimPrefix(path.Clean(name), "/"); name == "" {
		return "."
	}
	return name
}

func (e Environment) exists(name string) bool {
	if e.Files == nil || name == "" {
		return false
	}
	_, err := fs.Stat(e.Files, inFS(name))
	return err == nil
}

// absent tells whether err says that a file is not there, in one of the two ways
// of saying so.
func absent(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ENOTDIR)
}

// read gives the content of the file at an absolute path. It doesn't take more
// than limit bytes.
func (e Environment) read(name string, limit int64) ([]byte, error) {
	if e.Files == nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
	}
	f, err := e.Files.Open(inFS(name))
	if err != nil {
		return nil, withoutPath(err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, withoutPath(err)
	}
	if int64(len(text)) > limit {
		return nil, fmt.Errorf("%w of %d bytes", errTooLarge, limit)
	}
	return text, nil
}

var errTooLarge = errors.New("larger than the limit")

// withoutPath drops the name from an error of the file system, which knows the
// file without its first slash.
func withoutPath(err error) error {
	var pe *fs.PathError
	if errors.As(err, &pe) {
		return pe.Err
	}
	return err
}

// cpuLevel gives the x86-64 microarchitecture level (x86-64 psABI) that the
// processor has, from the flags that Linux lists. A processor that isn't listed
// has level 1.
func (e Environment) cpuLevel() int {
	if e.Files == nil {
		return 1
	}
	f, err := e.Files.Open("proc/cpuinfo")
	if err != nil {
		return 1
	}
	defer f.Close()
	lines := bufio.NewScanner(io.LimitReader(f, 64<<10))
	for lines.Scan() {
		name, list, _ := bytes.Cut(lines.Bytes(), []byte(":"))
		if string(bytes.TrimSpace(name)) != "flags" {
			continue
		}
		has := newStringSet(strings.Fields(string(list)))
		for level, flags := range cpuLevels {
			for _, flag := range flags {
				if !has.Has(flag) {
					return level + 1
				}
			}
		}
		return len(cpuLevels) + 1
	}
	return 1
}

// cpuLevels names what each level needs beyond the one before, from level 2 on,
// as /proc/cpuinfo has it: "abm" is LZCNT, "xsave" stands for OSXSAVE.
var cpuLevels = [][]string{
	{"cx16", "lahf_lm", "popcnt", "sse4_1", "sse4_2", "ssse3"},
	{"abm", "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "movbe", "xsave"},
	{"avx512bw", "avx512cd", "avx512dq", "avx512f", "avx512vl"},
}

// wsl1 tells whether this is the first Windows Subsystem for Linux, which runs
// neither 32-bit programs nor SQLite's write-ahead log.
func (e Environment) wsl1() bool {
	release, err := e.read("/proc/sys/kernel/osrelease", 4<<10)
	return err == nil && strings.HasSuffix(strings.TrimSpace(string(release)), "-Microsoft")
}
