package local

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/kilnbuild/kiln/internal/testenv"
	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/store/storetest"
)

// deadSession writes the session file of a process that is gone.
func deadSession(t *testing.T, o Options, left ...transient) string {
	t.Helper()
	var records []byte
	for _, l := range left {
		records = append(records, l.record('+')...)
	}
	dir := layout{state: o.StateDir}.sessions()
	if err := makeDirs(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(dir, "1-dead")
	if err := os.WriteFile(name, records, 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestNote(t *testing.T) {
	o := options(t, tempDir(t))
	scratch := t.TempDir()
	o.ScratchDirs = []string{scratch}
	o.RecoverTransient = map[Transient]func(string) error{"cgroup": func(string) error { return nil }}
	s := open(t, o)
	for _, good := range []transient{
		{TransientTree, s.RealDir() + "/x"}, {TransientFile, o.StateDir + "/a/b"}, {TransientTree, scratch + "/x"},
		{"cgroup", "/sys/fs/cgroup/x"},
	} {
		if err := errors.Join(s.Note(good.kind, good.path), s.Note(good.kind, good.path), s.Done(good.kind, good.path), s.Done(good.kind, good.path)); err != nil {
			t.Errorf("%v: %v", good, err)
		}
	}
	for _, bad := range []transient{
		{TransientTree, "/etc"}, {TransientTree, s.RealDir()}, {TransientTree, s.RealDir() + "/../x"}, {TransientTree, "x"},
		{TransientTree, s.RealDir() + "x"}, {TransientTree, s.RealDir() + "/x\x00"}, {"a b", s.RealDir() + "/x"}, {"", s.RealDir() + "/x"},
	} {
		if err := s.Note(bad.kind, bad.path); err == nil {
			t.Errorf("%v was noted", bad)
		}
	}
	if err := s.Note(TransientTree, s.RealDir()+"/y"); err != nil {
		t.Fatal(err)
	}
	// What is not done when the store is closed is an error, and is removed later.
	if err := os.Mkdir(s.RealDir()+"/y", 0o700); err != nil {
		t.Fatal(err)
	}
	unfinished, err := Open(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	path := o.RealStoreDir + "/z"
	if err := errors.Join(unfinished.Note(TransientTree, path), os.Mkdir(path, 0o700)); err != nil {
		t.Fatal(err)
	}
	if err := unfinished.Close(); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("Close: error %v, want one that names %s", err, path)
	}
	if err := s.Recover(t.Context()); err != nil {
		t.Error(err)
	}
	if exists(path) {
		t.Error("what a closed session left is still there")
	}
	if !exists(s.RealDir() + "/y") {
		t.Error("what the own session noted is gone")
	}
	if err := errors.Join(os.Remove(s.RealDir()+"/y"), s.Done(TransientTree, s.RealDir()+"/y")); err != nil {
		t.Error(err)
	}
}

// A session of a process that lives for long does not grow without end.
func TestSessionRotates(t *testing.T) {
	s := newStore(t)
	keep := s.RealDir() + "/keep"
	if err := s.Note(TransientTree, keep); err != nil {
		t.Fatal(err)
	}
	for i := range 3000 {
		path := fmt.Sprintf("%s/tmp-%d", s.RealDir(), i)
		if err := errors.Join(s.Note(TransientTree, path), s.Done(TransientTree, path)); err != nil {
			t.Fatal(err)
		}
	}
	files := names(t, s.layout.sessions())
	if len(files) != 1 {
		t.Fatalf("session files: %v, want one", files)
	}
	data, err := os.ReadFile(filepath.Join(s.layout.sessions(), files[0]))
	if err != nil {
		t.Fatal(err)
	}
	if len(data) > rotateAt+1000 {
		t.Errorf("the session file has %d bytes", len(data))
	}
	got, err := parseSession(data)
	if diff := cmp.Diff([]transient{{TransientTree, keep}}, got, cmp.AllowUnexported(transient{})); diff != "" || err != nil {
		t.Errorf("session: %v (-want +got):\n%s", err, diff)
	}
	if err := s.Done(TransientTree, keep); err != nil {
		t.Error(err)
	}
}

// A record that is cut short by a full disk does not count, nor does what the next one
// leaves of it.
func TestSessionCutShort(t *testing.T) {
	s := newStore(t)
	long, short := transient{TransientTree, s.RealDir() + "/" + strings.Repeat("x", 100)}, transient{TransientTree, s.RealDir() + "/y"}
	if err := s.Note(short.kind, short.path); err != nil {
		t.Fatal(err)
	}
	record := long.record('+')
	if _, err := s.journal.file.WriteAt(record[:len(record)-1], s.journal.size); err != nil {
		t.Fatal(err)
	}
	check := func(want ...transient) {
		t.Helper()
		data, err := os.ReadFile(s.journal.file.Name())
		if err != nil {
			t.Fatal(err)
		}
		got, err := parseSession(data)
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(transient{})); diff != "" || err != nil {
			t.Errorf("session: %v (-want +got):\n%s", err, diff)
		}
	}
	check(short)
	next := transient{TransientFile, s.RealDir() + "/z"}
	if err := s.Note(next.kind, next.path); err != nil {
		t.Fatal(err)
	}
	check(short, next)
	if err := s.Done(short.kind, short.path); err != nil {
		t.Fatal(err)
	}
	check(next)
	if err := s.Done(next.kind, next.path); err != nil {
		t.Fatal(err)
	}
}

func TestRecover(t *testing.T) {
	o := options(t, tempDir(t))
	outside := t.TempDir()
	writeFiles(t, outside, map[string]string{"precious": "x", "dir/precious": "x"})
	asked := 0
	o.RecoverTransient = map[Transient]func(string) error{"cgroup": func(path string) error {
		asked++
		if path != "/cg/x" {
			t.Errorf("asked to remove %s", path)
		}
		return nil
	}}
	s := open(t, o)
	valid := storetest.Built(t, s.Dir(), "valid", true)
	invalid := storetest.Built(t, s.Dir(), "invalid", true)
	storetest.Add(t, s, valid)
	placed(t, s, invalid)
	dir := filepath.Join(s.RealPath(valid.Info.Path), "bin")
	for _, err := range []error{
		os.Chmod(dir, 0o755),
		os.Symlink(outside, o.StateDir+"/link"),
		os.Symlink(outside, o.RealStoreDir+"/tmp-link"),
		os.WriteFile(o.RealStoreDir+"/gone.lock", nil, 0o600),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	writeFiles(t, o.StateDir, map[string]string{"builds/1/build/x": "", "file": "", "temproots/1": "stale"})
	writeFiles(t, o.RealStoreDir, map[string]string{"x.drv.chroot/root/x": "", "tmp-1-1/x": ""})
	writeFiles(t, o.LogDir, map[string]string{"drvs/aa/b": "plain", "drvs/aa/b.bz2": "", "drvs/aa/c.bz2": "compressed"})
	busy, err := os.Open(o.RealStoreDir + "/tmp-1-1")
	if err == nil {
		err = flock(busy, lockExclusive)
	}
	if err != nil {
		t.Fatal(err)
	}

	lockOf := func(p nix.StorePath) transient { return transient{transientLock, s.RealPath(p) + ".lock"} }
	name := deadSession(t, o,
		lockOf(valid.Info.Path), lockOf(invalid.Info.Path),
		transient{transientLock, o.RealStoreDir + "/gone.lock"},
		transient{TransientTree, o.RealStoreDir + "/x.drv.chroot"},
		transient{TransientTree, o.RealStoreDir + "/never-made"},
		transient{TransientTree, o.RealStoreDir + "/tmp-link"},
		transient{transientOwned, o.RealStoreDir + "/tmp-1-1"},
		transient{TransientTree, o.StateDir + "/builds/1"},
		transient{TransientTree, o.StateDir + "/link/dir"},
		transient{TransientFile, o.StateDir + "/file"},
		transient{transientOwned, o.StateDir + "/temproots/1"},
		transient{transientLog, o.LogDir + "/drvs/aa/b"}, transient{transientLog, o.LogDir + "/drvs/aa/c"},
		transient{transientDir, dir},
		transient{"cgroup", "/cg/x"},
	)
	err = s.Recover(t.Context())
	// The symbolic link on the way is not followed, and that is an error to look at.
	if err == nil || !strings.Contains(err.Error(), o.StateDir+"/link/dir") {
		t.Errorf("error %v, want one about the path behind a link", err)
	}
	if !exists(name) {
		t.Error("the session is forgotten though something of it is left")
	}
	for path, want := range map[string]bool{
		outside + "/precious": true, outside + "/dir/precious": true,
		o.RealStoreDir + "/x.drv.chroot": false, o.RealStoreDir + "/tmp-link": false, o.RealStoreDir + "/tmp-1-1": true,
		o.RealStoreDir + "/gone.lock": false, s.RealPath(invalid.Info.Path): false, s.RealPath(valid.Info.Path): true,
		s.RealPath(valid.Info.Path) + ".lock": false,
		o.StateDir + "/builds/1":              false, o.StateDir + "/builds": true, o.StateDir + "/file": false, o.StateDir + "/temproots/1": false,
		o.LogDir + "/drvs/aa/b": true, o.LogDir + "/drvs/aa/b.bz2": false, o.LogDir + "/drvs/aa/c.bz2": true,
	} {
		if exists(path) != want {
			t.Errorf("%s exists: %t, want %t", path, !want, want)
		}
	}
	if asked != 1 {
		t.Errorf("the handler of a foreign kind was called %d times", asked)
	}
	storetest.Check(t, s, valid)
	checkCanonical(t, s.RealPath(valid.Info.Path))

	// Without the link and with the owner of the directory gone, the rest goes.
	if err := errors.Join(busy.Close(), os.Remove(o.StateDir+"/link")); err != nil {
		t.Fatal(err)
	}
	if err := s.Recover(t.Context()); err != nil {
		t.Error(err)
	}
	if exists(name) || exists(o.RealStoreDir+"/tmp-1-1") {
		t.Error("the session is not settled")
	}
}

// A tree whose locks somebody else has by now may be his.
func TestRecoverLeavesWhatIsLocked(t *testing.T) {
	o := options(t, tempDir(t))
	s := open(t, o)
	theirs := mustLock(t, s, pathB)
	writeFiles(t, o.RealStoreDir, map[string]string{"x.drv.chroot/root/x": ""})
	writeFiles(t, o.StateDir, map[string]string{"builds/1/x": ""})
	name := deadSession(t, o,
		transient{transientLock, s.RealPath(pathA) + ".lock"}, transient{transientLock, s.RealPath(pathB) + ".lock"},
		transient{TransientTree, o.RealStoreDir + "/x.drv.chroot"}, transient{TransientTree, o.StateDir + "/builds/1"})
	if err := s.Recover(t.Context()); err != nil {
		t.Error(err)
	}
	if !exists(o.RealStoreDir+"/x.drv.chroot/root/x") || !exists(name) || !exists(s.RealPath(pathB)+".lock") {
		t.Error("what is locked was removed, or forgotten")
	}
	if exists(o.StateDir + "/builds/1") {
		t.Error("what nobody else can mean was left")
	}
	theirs.Release()
	if err := s.Recover(t.Context()); err != nil {
		t.Error(err)
	}
	if exists(o.RealStoreDir+"/x.drv.chroot") || exists(name) {
		t.Error("what was locked is left though nobody has the lock")
	}
}

// What lives and what is not ours is no dead session.
func TestRecoverLeavesOthers(t *testing.T) {
	o := options(t, tempDir(t))
	a, b := open(t, o), open(t, o)
	dir, err := a.TempDir(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := b.Recover(t.Context()); err != nil {
		t.Error(err)
	}
	if !exists(dir.Path()) {
		t.Error("the directory of a living session was removed")
	}
	if err := dir.Close(); err != nil {
		t.Error(err)
	}
	name := deadSession(t, o, transient{TransientTree, o.StateDir + "/x"})
	writeFiles(t, o.StateDir, map[string]string{"x/y": ""})
	if testenv.Root() {
		if err := os.Chown(name, 12345, 12345); err != nil {
			t.Fatal(err)
		}
		if err := b.Recover(t.Context()); err != nil || !exists(o.StateDir+"/x/y") {
			t.Errorf("somebody else's session was believed (%v)", err)
		}
		if err := os.Chown(name, 0, 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(name, []byte("nonsense\x00"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := b.Recover(t.Context()); err == nil || !strings.Contains(err.Error(), "corrupt") {
		t.Errorf("a corrupt session: %v", err)
	}
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
}

func FuzzParseSession(f *testing.F) {
	f.Add([]byte("+tree /a\x00+file /b c\x00-tree /a\x00+tree /"))
	f.Add([]byte("+\x00"))
	f.Add([]byte("+tree\x00"))
	f.Add([]byte(" tree /a\x00"))
	f.Fuzz(func(t *testing.T, data []byte) {
		live, err := parseSession(data)
		if err != nil {
			return
		}
		var again []byte
		for _, l := range live {
			again = append(again, l.record('+')...)
		}
		got, err := parseSession(again)
		if diff := cmp.Diff(live, got, cmp.AllowUnexported(transient{})); diff != "" || err != nil {
			t.Errorf("%q: %v (-first +second):\n%s", data, err, diff)
		}
	})
}
