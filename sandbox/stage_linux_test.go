package sandbox

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/kilnbuild/kiln/internal/rmtree"
	"github.com/kilnbuild/kiln/internal/testenv"
	"github.com/kilnbuild/kiln/mountns"
	"golang.org/x/sys/unix"
)

// tree lists what is below dir, one line each: mode, owner unless it is the
// test's own, path, content.
func tree(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	must(t, filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		rel := strings.TrimPrefix(path, dir)
		fmt.Fprintf(&b, "%v %s", info.Mode(), "/"+strings.TrimPrefix(rel, "/"))
		if st := info.Sys().(*syscall.Stat_t); int(st.Uid) != os.Geteuid() || int(st.Gid) != os.Getegid() {
			fmt.Fprintf(&b, " of %d:%d", st.Uid, st.Gid)
		}
		switch {
		case d.Type().IsRegular():
			text, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			fmt.Fprintf(&b, " %q", text)
		case d.Type()&fs.ModeSymlink != 0:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			fmt.Fprintf(&b, " -> %s", target)
		}
		b.WriteByte('\n')
		return nil
	}))
	return b.String()
}

func TestStage(t *testing.T) {
	everyone(t, func(t *testing.T) {
		// The modes are those asked for under every umask.
		old := unix.Umask(0o077)
		defer unix.Umask(old)

		dir := t.TempDir()
		source := filepath.Join(dir, "source")
		must(t, os.Mkdir(source, 0o755))
		must(t, os.WriteFile(filepath.Join(source, "file"), []byte("secret"), 0o600))
		must(t, os.Symlink("file", filepath.Join(source, "link")))
		s := &Spec{
			Name: "stage", Path: "/x", Args: []string{"x"}, Isolation: Full, Root: filepath.Join(dir, "root"),
			Tree: []Entry{
				Dir("/", 0o750).OwnedBy(0, 12345),
				Dir("/tmp", ModeSticky),
				Dir("/read-only", 0o555),
				File("/read-only/file", 0o444, "text\n"),
				File("/implied/by/file", 0o640, "").OwnedBy(0, 12345),
				Symlink("/implied/by/link", "anywhere/../at all"),
			},
			Mounts: []mountns.Mount{
				{Kind: mountns.Bind, Source: source, Target: "/a/directory"},
				{Kind: mountns.Bind, Source: source + "/file", Target: "/a/file"},
				{Kind: mountns.Bind, Source: source + "/link", Target: "/a/link"},
				{Kind: mountns.Bind, Source: source + "/link", Target: "/a/followed", Follow: true},
				{Kind: mountns.Bind, Source: source + "/none", Target: "/a/none", Optional: true},
				{Kind: mountns.Bind, Source: source + "/file/none", Target: "/a/none", Optional: true},
				{Kind: mountns.Bind, Source: source + "/file", Target: "/read-only/bound"},
				{Kind: mountns.Proc, Target: "/proc"},
			},
		}
		mounts, err := s.Stage()
		must(t, err)
		owned := ""
		if testenv.Root() {
			owned = " of 0:12345"
		}
		want := `drwxr-x--- /` + owned + `
drwxr-xr-x /a
drwxr-xr-x /a/directory
-r--r--r-- /a/file ""
-r--r--r-- /a/followed ""
Lrwxrwxrwx /a/link -> file
drwxr-xr-x /implied
drwxr-xr-x /implied/by
-rw-r----- /implied/by/file` + owned + ` ""
Lrwxrwxrwx /implied/by/link -> anywhere/../at all
drwxr-xr-x /proc
dr-xr-xr-x /read-only
-r--r--r-- /read-only/bound ""
-r--r--r-- /read-only/file "text\n"
dtrwxrwxrwx /tmp
`
		if d := cmp.Diff(want, tree(t, s.Root)); d != "" {
			t.Errorf("the root has (-want +got):\n%s", d)
		}
		var targets []string
		for _, m := range mounts {
			targets = append(targets, m.Target)
		}
		if d := cmp.Diff([]string{"/a/directory", "/a/file", "/a/followed", "/read-only/bound", "/proc"}, targets); d != "" {
			t.Errorf("what is left to be mounted (-want +got):\n%s", d)
		}
		must(t, rmtree.RemoveTree(s.Root))
	})
}

func TestStageRefuses(t *testing.T) {
	dir := t.TempDir()
	must(t, os.WriteFile(filepath.Join(dir, "file"), nil, 0o600))
	must(t, os.Symlink("/tmp", filepath.Join(dir, "link")))
	must(t, os.Mkdir(filepath.Join(dir, "there"), 0o755))
	bind := func(source, target string) mountns.Mount {
		return mountns.Mount{Kind: mountns.Bind, Source: source, Target: target}
	}
	for name, c := range map[string]struct {
		root   string
		tree   []Entry
		mounts []mountns.Mount
		words  string
	}{
		"a root that exists":            {root: "there", words: "exists"},
		"a root in nothing":             {root: "none/root", words: "no such file"},
		"a source that is not there":    {mounts: []mountns.Mount{bind(dir+"/none", "/x")}, words: "getting attributes of path '" + dir + "/none': No such file or directory"},
		"a mount below a symlink":       {tree: []Entry{Symlink("/x", "/tmp")}, mounts: []mountns.Mount{bind(dir, "/x/y")}, words: "'/x' is in the way"},
		"a mount on a symlink":          {tree: []Entry{Symlink("/x", "/tmp")}, mounts: []mountns.Mount{bind(dir+"/file", "/x")}, words: "'/x' is in the way"},
		"a directory on a file":         {tree: []Entry{File("/x", 0o600, "")}, mounts: []mountns.Mount{bind(dir, "/x")}, words: "'/x' is in the way"},
		"a file on a directory":         {tree: []Entry{Dir("/x", 0o700)}, mounts: []mountns.Mount{bind(dir+"/file", "/x")}, words: "'/x' is in the way"},
		"a mount below a bound symlink": {mounts: []mountns.Mount{bind(dir+"/link", "/x"), bind(dir, "/x/y")}, words: "'/x' is in the way"},
		"two files of one name":         {tree: []Entry{File("/x", 0o600, ""), File("/x", 0o600, "")}, words: "exists"},
	} {
		s := &Spec{Name: name, Path: "/x", Args: []string{"x"}, Isolation: Full, Root: filepath.Join(dir, "root"), Tree: c.tree, Mounts: c.mounts}
		if c.root != "" {
			s.Root = filepath.Join(dir, c.root)
		}
		_, err := s.Stage()
		if err == nil || !strings.Contains(err.Error(), c.words) {
			t.Errorf("%s gives %v, want %q", name, err, c.words)
		}
		must(t, os.RemoveAll(filepath.Join(dir, "root")))
	}
	if entries, err := os.ReadDir(filepath.Join(dir, "there")); err != nil || len(entries) > 0 {
		t.Errorf("in the directory that existed there is %v, %v", entries, err)
	}
}

// TestSpecAsJSON writes a Spec down and reads it again, as a bug report would.
func TestSpecAsJSON(t *testing.T) {
	s := goldenSpec()
	s.Tree = []Entry{Dir("/", 0o750).OwnedBy(0, 1), File("/f", 0o644, "x"), Symlink("/l", "f"), Dir("/tmp", ModeSticky)}
	s.Live = "/data"
	text, err := json.Marshal(s)
	must(t, err)
	var again Spec
	must(t, json.Unmarshal(text, &again))
	if d := cmp.Diff(s, &again); d != "" {
		t.Errorf("what was read differs (-want +got):\n%s", d)
	}
}

func TestValidate(t *testing.T) {
	for name, change := range map[string]func(*Spec){
		"a NUL in an argument":        func(s *Spec) { s.Args = []string{"a\x00b"} },
		"a NUL in a variable":         func(s *Spec) { s.Env = []string{"a\x00b"} },
		"a NUL in the program":        func(s *Spec) { s.Path = "a\x00b" },
		"a NUL in a mount's source":   func(s *Spec) { s.Mounts[0].Source = "/a\x00b" },
		"a NUL in a mount's target":   func(s *Spec) { s.Mounts[0].Target = "/a\x00b" },
		"a NUL in a size":             func(s *Spec) { s.Mounts[0].Size = "1\x00" },
		"no arguments":                func(s *Spec) { s.Args = nil },
		"no isolation":                func(s *Spec) { s.Isolation = "" },
		"a relative root":             func(s *Spec) { s.Root = "root" },
		"the machine's root":          func(s *Spec) { s.Root = "/" },
		"a root with dots":            func(s *Spec) { s.Root = "/a/../b" },
		"a relative target":           func(s *Spec) { s.Mounts[0].Target = "x" },
		"a target with dots":          func(s *Spec) { s.Mounts[0].Target = "/a/../../b" },
		"the root as a target":        func(s *Spec) { s.Mounts[0].Target = "/" },
		"a relative source":           func(s *Spec) { s.Mounts[0].Source = "x" },
		"an option in a size":         func(s *Spec) { s.Mounts[0] = mountns.Mount{Kind: mountns.Tmpfs, Target: "/x", Size: "1m,uid=0"} },
		"an unknown kind of mount":    func(s *Spec) { s.Mounts[0].Kind = "overlay" },
		"a relative entry":            func(s *Spec) { s.Tree = []Entry{Dir("x", 0o700)} },
		"an entry with dots":          func(s *Spec) { s.Tree = []Entry{Dir("/x/..", 0o700)} },
		"a live directory with dots":  func(s *Spec) { s.Live = "/x/.." },
		"the root as live directory":  func(s *Spec) { s.Live = "/" },
		"a network that is not known": func(s *Spec) { s.Network = "bridge" },
	} {
		s := goldenSpec()
		if err := s.Validate(); err != nil {
			t.Fatal(err)
		}
		change(s)
		if s.Validate() == nil {
			t.Errorf("%s is accepted", name)
		}
	}
}
