package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/kilnbuild/kiln/internal/testenv"
	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/store/storetest"
	"zombiezen.com/go/sqlite"
)

func TestT01StateTree(t *testing.T) {
	for _, umask := range []int{0, 0o077} {
		t.Run(fmt.Sprintf("umask %#o", umask), func(t *testing.T) {
			root := tempDir(t)
			old := syscall.Umask(umask)
			s := open(t, options(t, root))
			_, err := s.AddText(t.Context(), "x", []byte("x"), nil)
			err = errors.Join(err, s.AddTempRoot(t.Context(), "ivlnvab4q9c7wbsvbfsvgaa15j9p6206-hello"))
			syscall.Umask(old)
			if err != nil {
				t.Fatal(err)
			}
			private := []string{"nix/var/nix/kiln/sessions", "nix/store/" + filepath.Base(s.room.path)}
			err = filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
				if err != nil {
					return err
				}
				info, err := d.Info()
				if err != nil || !d.IsDir() || path == root {
					return err
				}
				rel, _ := filepath.Rel(root, path)
				want := fs.FileMode(0o755)
				if slices.ContainsFunc(private, func(p string) bool { return strings.HasPrefix(rel, p) }) {
					want = 0o700
				}
				if got := info.Mode() &^ fs.ModeDir; got != want {
					t.Errorf("directory %s has mode %v, want %v", rel, got, want)
				}
				return nil
			})
			if err != nil {
				t.Error(err)
			}
			for _, file := range []string{s.layout.bigLock(), s.layout.reserved(), s.layout.gcLock()} {
				if info, err := os.Stat(file); err != nil || info.Mode() != 0o600 {
					t.Errorf("%s: %v, %v, want mode 0600", file, info, err)
				}
			}
			for _, file := range []string{s.layout.database(), s.layout.database() + "-wal", s.layout.schema()} {
				if info, err := os.Stat(file); err != nil || info.Mode() != 0o644 {
					t.Errorf("%s: %v, %v, want mode 0644", file, info, err)
				}
			}
			if info, err := os.Stat(s.layout.reserved()); err != nil || info.Size() != s.opts.ReservedSpace {
				t.Errorf("reserved space: %v, %v", info, err)
			}
		})
	}
}

func TestBuildUsersGroup(t *testing.T) {
	testenv.NeedRoot(t)
	const gid = 54321
	o := options(t, tempDir(t))
	o.BuildUsersGroup = gid
	s := open(t, o)
	check := func() {
		t.Helper()
		info, err := os.Stat(s.RealDir())
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode() != fs.ModeDir|fs.ModeSticky|0o775 || group(info) != gid || user(info) != 0 {
			t.Errorf("store directory: %v of %d:%d, want drwxrwxr-t of 0:%d", info.Mode(), user(info), group(info), gid)
		}
	}
	check()
	if err := os.Chmod(s.RealDir(), 0o755); err != nil {
		t.Fatal(err)
	}
	reopen(t, s)
	check()
}

// schemaOf gives the definitions of a database without what makes no difference.
func schemaOf(t *testing.T, path string) map[string]string {
	t.Helper()
	c, err := sqlite.OpenConn(path, sqlite.OpenReadOnly)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	comment, blank := regexp.MustCompile(`--[^\n]*`), regexp.MustCompile(`\s+`)
	found := make(map[string]string)
	err = query(c, "select name, sql from sqlite_master where sql is not null", func(row *sqlite.Stmt) error {
		text := comment.ReplaceAllString(row.ColumnText(1), "")
		text = strings.ToLower(blank.ReplaceAllString(text, ""))
		found[row.ColumnText(0)] = text
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestSchemaIsThatOfNix(t *testing.T) {
	for _, ca := range []bool{false, true} {
		t.Run(fmt.Sprintf("ca-derivations=%t", ca), func(t *testing.T) {
			theirs, file := tempDir(t), filepath.Join(t.TempDir(), "file")
			writeFiles(t, filepath.Dir(file), map[string]string{"file": "x"})
			args := []string{"--add", file}
			if ca {
				args = append([]string{"--extra-experimental-features", "ca-derivations"}, args...)
			}
			realNix(t, theirs, "nix-store", args...)
			o := options(t, tempDir(t))
			o.CADerivations = ca
			ours := open(t, o)
			want := schemaOf(t, filepath.Join(theirs, "nix/var/nix/db/db.sqlite"))
			// Versions of Nix differ in whether they have it, and take a database that
			// does.
			want["SchemaMigrations"] = "createtableschemamigrations(migrationtextprimarykeynotnull)"
			if ca {
				// Of Nix 2.34, where 2.8 would let an object be undeletable.
				want["IndexRealisationsRefsRealisationReference"] =
					"createindexindexrealisationsrefsrealisationreferenceonrealisationsrefs(realisationreference)"
				want["DeleteSelfRefsViaRealisations"] = "createtriggerdeleteselfrefsviarealisationsbeforedeleteonvalidpaths" +
					"begindeletefromrealisationsrefswhererealisationreferencein(selectidfromrealisationswhereoutputpath=old.id);end"
			}
			if diff := cmp.Diff(want, schemaOf(t, ours.layout.database())); diff != "" {
				t.Errorf("schema (-Nix +ours):\n%s", diff)
			}
			if !ca {
				return
			}
			err := ours.db.read(t.Context(), func(c *sqlite.Conn) error {
				return query(c, "select migration from SchemaMigrations", func(row *sqlite.Stmt) error {
					if got := row.ColumnText(0); got != caMigration {
						t.Errorf("migration %q", got)
					}
					return nil
				})
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
}

func TestOpenRefuses(t *testing.T) {
	made := func(t *testing.T) Options {
		o := options(t, tempDir(t))
		s, err := Open(t.Context(), o)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
		return o
	}
	write := func(t *testing.T, o Options, name, text string) {
		writeFiles(t, o.StateDir, map[string]string{name: text})
	}
	for name, test := range map[string]struct {
		prepare func(*testing.T) Options
		want    []string // in the message
	}{
		"newer schema": {func(t *testing.T) Options { o := made(t); write(t, o, "db/schema", "11"); return o },
			[]string{"version 11", "version 10", "newer version of Nix"}},
		"older schema": {func(t *testing.T) Options { o := made(t); write(t, o, "db/schema", "7\n"); return o },
			[]string{"version 7", "version 10", "upgrade"}},
		"corrupt schema": {func(t *testing.T) Options { o := made(t); write(t, o, "db/schema", "ten"); return o },
			[]string{"db/schema", "corrupt"}},
		"no database": {func(t *testing.T) Options {
			o := made(t)
			if err := os.Remove(filepath.Join(o.StateDir, "db/db.sqlite")); err != nil {
				t.Fatal(err)
			}
			return o
		}, []string{"db.sqlite"}},
		"damaged database": {func(t *testing.T) Options {
			o := made(t)
			write(t, o, "db/db.sqlite", strings.Repeat("no database ", 1000))
			return o
		}, []string{"db.sqlite", "damaged"}},
		"relative path": {func(t *testing.T) Options { o := made(t); o.StateDir = "state"; return o }, []string{"'state'", "absolute"}},
		"symlink": {func(t *testing.T) Options {
			o := made(t)
			link := filepath.Join(t.TempDir(), "link")
			if err := os.Symlink(filepath.Dir(o.RealStoreDir), link); err != nil {
				t.Fatal(err)
			}
			o.RealStoreDir = filepath.Join(link, "store")
			return o
		}, []string{"/link'", "symlink", "not allowed"}},
		"a file in the way": {func(t *testing.T) Options {
			o := options(t, tempDir(t))
			writeFiles(t, filepath.Dir(o.RealStoreDir), map[string]string{"store": ""})
			return o
		}, []string{"nix/store"}},
		"nothing to read": {func(t *testing.T) Options { o := options(t, tempDir(t)); o.ReadOnly = true; return o },
			[]string{"there is no store"}},
		"newer schema, to read": {func(t *testing.T) Options {
			o := made(t)
			write(t, o, "db/schema", "11")
			o.ReadOnly = true
			return o
		}, []string{"version 11"}},
	} {
		t.Run(name, func(t *testing.T) {
			s, err := Open(t.Context(), test.prepare(t))
			if err == nil {
				s.Close()
				t.Fatal("it was opened")
			}
			for _, want := range test.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q does not say %q", err, want)
				}
			}
		})
	}
}

func TestAllowSymlinks(t *testing.T) {
	root := tempDir(t)
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(root, link); err != nil {
		t.Fatal(err)
	}
	o := options(t, link)
	o.AllowSymlinks = true
	s := open(t, o)
	if _, err := s.AddText(t.Context(), "x", []byte("x"), nil); err != nil {
		t.Error(err)
	}
}

// A store that belongs to somebody else is refused with what to do about it.
func TestForeignStore(t *testing.T) {
	if !testenv.AsOrdinaryUser(t) {
		return
	}
	_, err := Open(t.Context(), options(t, "/proc/1"))
	if err == nil || !errors.Is(err, fs.ErrPermission) && !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a store in /proc: %v", err)
	}
	root := tempDir(t)
	o := options(t, root)
	if err := open(t, o).Close(); err != nil {
		t.Fatal(err)
	}
	db := filepath.Join(o.StateDir, "db")
	if err := os.Chmod(db, 0o555); err != nil {
		t.Fatal(err)
	}
	_, err = Open(t.Context(), o)
	if err == nil {
		t.Fatal("a store without the right to write was opened for writing")
	}
	for _, want := range []string{db, "permission denied", "store of your own"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("error %q does not say %q", err, want)
		}
	}
	// To read from it is possible, without making anything beside the database.
	o.ReadOnly = true
	s := open(t, o)
	storetest.CheckMissing(t, s, "ivlnvab4q9c7wbsvbfsvgaa15j9p6206-hello")
	if err := os.Chmod(db, 0o755); err != nil {
		t.Fatal(err)
	}
}

func TestReadOnly(t *testing.T) {
	s := newStore(t)
	o := storetest.Built(t, s.Dir(), "x", true)
	storetest.Add(t, s, o)
	readOnly := s.opts
	readOnly.ReadOnly = true
	r := open(t, readOnly) // while another has it open
	storetest.Check(t, r, o)
	ctx, p := t.Context(), o.Info.Path
	for name, err := range map[string]error{
		"Add":                 r.Add(ctx, &o.Info, strings.NewReader(""), struct{ Repair, CheckSignatures bool }{}),
		"AddText":             second(r.AddText(ctx, "x", nil, nil)),
		"AddTree":             second(r.AddTree(ctx, "x", "/", nix.Recursive, nix.SHA256)),
		"AddDerivation":       second(r.AddDerivation(ctx, fixedDerivation(t, s, "x"))),
		"Register":            r.Register(ctx, []Registration{{Info: o.Info}}),
		"Invalidate":          r.Invalidate(ctx, p),
		"AddSignatures":       r.AddSignatures(ctx, p, nil),
		"RegisterRealisation": r.RegisterRealisation(ctx, &nix.Realisation{}),
		"LockPaths":           second(r.LockPaths(ctx, []nix.StorePath{p}, nil)),
		"TempDir":             second(r.TempDir(ctx)),
		"Place":               r.Place(ctx, "/nothing", p),
		"Replace":             r.Replace(ctx, "/nothing", p),
		"CreateLog":           second(r.CreateLog(p)),
		"OptimisePath":        second(r.OptimisePath(ctx, p)),
		"Note":                r.Note(TransientTree, r.RealDir()+"/x"),
		"Recover":             r.Recover(ctx),
	} {
		if !errors.Is(err, errReadOnly) {
			t.Errorf("%s: error %v, want %v", name, err, errReadOnly)
		}
	}
	if err := r.AddTempRoot(ctx, p); err != nil {
		t.Errorf("AddTempRoot: %v", err)
	}
	if n, err := r.Verify(ctx, VerifyOptions{CheckContents: true}); n != 0 || err != nil {
		t.Errorf("Verify: %d, %v", n, err)
	}
	// The last to close it takes the write-ahead log with it. That must not matter.
	r.Close()
	s = reopen(t, s)
	s.Close()
	storetest.Check(t, open(t, readOnly), o)
}

func second[T any](_ T, err error) error { return err }

func TestCloseAgain(t *testing.T) {
	s := newStore(t)
	p, err := s.AddText(t.Context(), "x", []byte("x"), nil)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
	ctx := t.Context()
	for name, err := range map[string]error{
		"PathInfo":    second(s.PathInfo(ctx, p)),
		"AddText":     second(s.AddText(ctx, "y", nil, nil)),
		"AddTempRoot": s.AddTempRoot(ctx, "ivlnvab4q9c7wbsvbfsvgaa15j9p6206-hello"),
		"TempDir":     second(s.TempDir(ctx)),
		"LockPaths":   second(s.LockPaths(ctx, []nix.StorePath{p}, nil)),
	} {
		if !errors.Is(err, errClosed) {
			t.Errorf("%s after Close: %v, want %v", name, err, errClosed)
		}
	}
}

// Whoever waits for an upgrade of the database can stop waiting.
func TestBigLock(t *testing.T) {
	o := options(t, tempDir(t))
	if err := open(t, o).Close(); err != nil {
		t.Fatal(err)
	}
	f, err := openLock(filepath.Join(o.StateDir, "db/big-lock"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := flock(f, lockExclusive); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := Open(ctx, o); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "big-lock") {
		t.Errorf("error %v, want one that names big-lock", err)
	}
	time.AfterFunc(20*time.Millisecond, func() { f.Close() })
	open(t, o)
}
