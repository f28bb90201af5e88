//go:build linux

package interop

import (
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/kilnbuild/kiln/internal/testenv"
)

// A thief is a builder that hands what it has open to an accomplice on the machine,
// who uses it when the build is over. It is this program, if the variable "thief"
// is set; other variables of the derivation say what it does:
//
//	meet        directory with the accomplice's socket
//	everything  "1" to take what is around its output and its build directory too
//	tree        "1" for an output that is a directory
//	leave       "1" to leave a process behind, in a session of its own
//	abstract    an address to try
//	ending      "fail" to fail, "other" to make something else than usual
//
// If there is a file "honest" in the directory, it only makes its output.
func init() {
	switch os.Getenv("thief") {
	case "":
		return
	case "left behind":
		// Until the accomplice goes, which is after the build.
		io.Copy(io.Discard, os.NewFile(3, "accomplice"))
	default:
		steal()
	}
	os.Exit(0)
}

// loot is what the accomplice adds to what it can write to.
const loot = "st" + "olen"

func steal() {
	check := func(err error) {
		if err != nil {
			fmt.Fprintln(os.Stderr, "thief:", err)
			os.Exit(9)
		}
	}
	out, meet := os.Getenv("out"), os.Getenv("meet")
	file, honest := out, exists(filepath.Join(meet, "honest"))
	if os.Getenv("tree") == "1" {
		check(os.Mkdir(out, 0o755))
		file = filepath.Join(out, "file")
	}
	text := "content\n"
	if os.Getenv("ending") == "other" && !honest {
		text = "other\n"
	}
	check(os.WriteFile(file, []byte(text), 0o644))
	if honest {
		return
	}
	check(os.WriteFile("file", []byte("of the build directory"), 0o644))
	if name := os.Getenv("abstract"); name != "" {
		_, err := net.Dial("unix", name)
		fmt.Printf("abstract socket: %v\n", err)
		ns, err := os.Readlink("/proc/self/ns/net")
		check(err)
		fmt.Printf("network: %s\n", ns)
	}
	conn, err := net.Dial("unix", filepath.Join(meet, "socket"))
	check(err)
	var fds []int
	take := func(name string, flags int) {
		fd, err := unix.Open(name, flags, 0)
		check(err)
		fds = append(fds, fd)
	}
	take(file, unix.O_RDWR)
	take("file", unix.O_RDWR)
	names := []string{out, "."}
	if os.Getenv("everything") == "1" {
		names = append(names, "..", filepath.Dir(out), "/", "/proc/self")
	}
	for _, name := range names {
		take(name, unix.O_PATH)
		take(name, unix.O_RDONLY)
	}
	_, _, err = conn.(*net.UnixConn).WriteMsgUnix([]byte("x"), unix.UnixRights(fds...), nil)
	check(err)
	_, err = conn.Read(make([]byte, 1)) // the accomplice has them
	check(err)
	if os.Getenv("leave") == "1" {
		accomplice, err := conn.(*net.UnixConn).File()
		check(err)
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), "thief=left behind")
		cmd.ExtraFiles = []*os.File{accomplice}
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		check(cmd.Start())
	}
	if os.Getenv("ending") == "fail" {
		os.Exit(7)
	}
}

// An accomplice waits for thieves.
type accomplice struct {
	t        *testing.T
	abstract string
	place    uint64 // device of the scene
	thieves  chan *loyal
}

// A loyal thief has handed over what it had.
type loyal struct {
	conn  *net.UnixConn
	fds   []int    // only of the scene: nothing else on the machine may be changed
	views [][]byte // mapped files
}

// newAccomplice waits in a directory, and at an abstract address.
func newAccomplice(t *testing.T, scene *testenv.Scene, dir string) *accomplice {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		t.Fatal(err)
	}
	a := &accomplice{t: t, abstract: "@" + scene.Mark(), place: st.Dev, thieves: make(chan *loyal, 16)}
	t.Cleanup(func() {
		close(a.thieves)
		for thief := range a.thieves {
			thief.close()
		}
	})
	for _, address := range []string{a.abstract, filepath.Join(dir, "socket")} {
		l, err := net.ListenUnix("unix", &net.UnixAddr{Name: address, Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		if address != a.abstract {
			if err := os.Chmod(address, 0o777); err != nil {
				t.Fatal(err)
			}
		}
		done := make(chan struct{})
		go func() {
			defer close(done)
			for {
				conn, err := l.AcceptUnix()
				if err != nil {
					return
				}
				a.meet(conn)
			}
		}()
		t.Cleanup(func() { l.Close(); <-done })
	}
	return a
}

// meet takes what a thief has.
func (a *accomplice) meet(conn *net.UnixConn) {
	thief := &loyal{conn: conn}
	control := make([]byte, 4096)
	_, n, _, _, err := conn.ReadMsgUnix(make([]byte, 1), control)
	if err != nil || n == 0 {
		conn.Close()
		return
	}
	messages, err := unix.ParseSocketControlMessage(control[:n])
	if err != nil {
		a.t.Errorf("what a thief sends: %v", err)
	}
	for _, m := range messages {
		fds, err := unix.ParseUnixRights(&m)
		if err != nil {
			a.t.Errorf("what a thief sends: %v", err)
		}
		for _, fd := range fds {
			var st unix.Stat_t
			if err := unix.Fstat(fd, &st); err != nil || a.machines(&st) || st.Dev != a.place {
				unix.Close(fd)
				continue
			}
			thief.fds = append(thief.fds, fd)
		}
	}
	for _, fd := range thief.fds {
		if view, err := unix.Mmap(fd, 0, 8, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); err == nil {
			thief.views = append(thief.views, view)
		}
	}
	a.thieves <- thief
	conn.Write([]byte("x"))
}

// machines tells whether something is the machine's root directory, which no thief
// may see.
func (a *accomplice) machines(st *unix.Stat_t) bool {
	var root unix.Stat_t
	if err := unix.Stat("/", &root); err != nil || st.Dev == root.Dev && st.Ino == root.Ino {
		a.t.Errorf("a thief has the machine's root directory (%v)", err)
		return true
	}
	return false
}

// thief gives the thief of a build that is over.
func (a *accomplice) thief() *loyal {
	a.t.Helper()
	select {
	case thief := <-a.thieves:
		a.t.Cleanup(thief.close)
		if len(thief.fds) < 6 || len(thief.views) < 2 {
			a.t.Errorf("the accomplice has got %d descriptors, %d of which it can write to", len(thief.fds), len(thief.views))
		}
		return thief
	default:
		a.t.Fatal("no thief came")
		return nil
	}
}

// gone wants that no process of the build is left.
func (l *loyal) gone(t *testing.T) {
	t.Helper()
	l.conn.SetReadDeadline(time.Now().Add(2 * time.Second))
	if _, err := l.conn.Read(make([]byte, 1)); err != io.EOF {
		t.Errorf("a process of the build lives when the build is over: %v", err)
	}
}

// use writes to everything that can be written to or made.
func (l *loyal) use(names ...string) {
	for _, view := range l.views {
		copy(view, loot)
	}
	names = append(names, "file", loot)
	for _, fd := range l.fds {
		unix.Pwrite(fd, []byte(loot), 0)
		unix.Fchmod(fd, 0o4777)
		self := "/proc/self/fd/" + strconv.Itoa(fd)
		paths := []string{self}
		for _, name := range names {
			paths = append(paths, self+"/"+name)
		}
		for _, path := range paths {
			if again, err := unix.Open(path, unix.O_WRONLY|unix.O_CREAT|unix.O_CLOEXEC, 0o666); err == nil {
				unix.Pwrite(again, []byte(loot), 0)
				unix.Close(again)
			}
		}
	}
}

func (l *loyal) close() {
	for _, view := range l.views {
		unix.Munmap(view)
	}
	for _, fd := range l.fds {
		unix.Close(fd)
	}
	l.conn.Close()
	l.views, l.fds = nil, nil
}

// theft is a scene with a thief and its accomplice.
type theft struct {
	*accomplice
	scene  *testenv.Scene
	kiln   *side
	dir    string // where they meet
	store  string
	files  string // what has the store's files
	plain  bool   // builders are not isolated
	binary string
}

func newTheft(t *testing.T) *theft {
	t.Helper()
	needs(t)
	scene := newPlainScene(t)
	x := &theft{scene: scene, kiln: newSide(t, "kiln", "store", scene, takeLane(t)), dir: scene.Mkdir("shared"), binary: scene.Path("thief")}
	x.store, x.files = x.kiln.store, x.kiln.store
	x.accomplice = newAccomplice(t, scene, x.dir)
	// A copy: a build user may not get at this program by its name.
	program, err := os.ReadFile("/proc/self/exe")
	if err == nil {
		err = os.WriteFile(x.binary, program, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// unmoved takes a store whose files are where their paths say, in which builders
// need no isolation.
func (x *theft) unmoved() *theft {
	x.store, x.files = unmovedStore(x.scene)
	x.plain = true
	return x
}

// unmovedStore is a store whose files are where their paths say, and their
// directory.
func unmovedStore(scene *testenv.Scene) (store, files string) {
	place := scene.Mkdir("unmoved")
	return "local?store=" + place + "/store&state=" + place + "/state&log=" + place + "/log", place
}

// drv puts the derivation of a thief into the store.
func (x *theft) drv(name string, attributes map[string]string) string {
	x.t.Helper()
	meet, builder := "/shared", "/bin/thief"
	if x.plain {
		meet, builder = x.dir, x.binary
	}
	all := map[string]string{"name": name, "builder": builder, "thief": "1", "meet": meet}
	if !x.plain {
		all["everything"] = "1"
	}
	maps.Copy(all, attributes)
	var text strings.Builder
	for _, name := range slices.Sorted(maps.Keys(all)) {
		fmt.Fprintf(&text, " %s = %q;", name, all[name])
	}
	return instantiateText(x.t, x.scene, x.store, "derivation { inherit system;"+text.String()+" }")
}

// build builds a derivation of a thief.
func (x *theft) build(drv string, options map[string]string) outcome {
	x.t.Helper()
	all := map[string]string{"sandbox-paths": "/bin/sh=@busybox@ /shared=@shared@ /bin/thief=" + x.binary + " " +
		"/lib? /lib64? /usr/lib? /usr/lib64?"} // the race detector wants the C library
	maps.Copy(all, options)
	words := append([]string{testenv.Kiln(x.t), "build", "--store", x.store, "--json"}, x.kiln.options(x.t, all)...)
	return run(x.t, x.kiln.command(append(words, drv)...))
}

// honest lets a thief make its output only, or not.
func (x *theft) honest(yes bool) {
	x.t.Helper()
	file := filepath.Join(x.dir, "honest")
	err := os.Remove(file)
	if yes {
		err = os.WriteFile(file, nil, 0o644)
	}
	if err != nil && !os.IsNotExist(err) {
		x.t.Fatal(err)
	}
}

// out is where the output of a thief's derivation is on the machine.
func (x *theft) out(drv string) string {
	x.t.Helper()
	if x.plain {
		text, err := os.ReadFile(drv)
		if err != nil {
			x.t.Fatal(err)
		}
		head, _, _ := strings.Cut(strings.TrimPrefix(string(text), `Derive([("out","`), `"`)
		return head
	}
	return x.files + derivationOutputs(x.t, x.files+drv)[0]
}

// fixed is what makes a thief's output a fixed one.
func (x *theft) fixed(tree bool) map[string]string {
	x.t.Helper()
	usual := filepath.Join(x.scene.Mkdir("usual"), "file")
	if err := os.WriteFile(usual, []byte("content\n"), 0o644); err != nil {
		x.t.Fatal(err)
	}
	attributes := map[string]string{"outputHashMode": "flat", "outputHashAlgo": "sha256"}
	words := []string{"nix-hash", "--type", "sha256", "--flat", usual}
	if tree {
		attributes["outputHashMode"], attributes["tree"] = "recursive", "1"
		words = []string{"nix-hash", "--type", "sha256", filepath.Dir(usual)}
	}
	attributes["outputHash"] = must(x.t, sceneCommand(x.scene, words...))[0]
	return attributes
}

// unharmed wants that nothing in the store is changed, or is there in addition.
func (x *theft) unharmed(what string) {
	x.t.Helper()
	for _, file := range mentioning(x.t, x.files, loot) {
		x.t.Errorf("%s: the accomplice could write to or make %s", what, file)
	}
	must(x.t, kilnCommand(x.t, x.scene, x.store, "store", "verify", "--check-contents"))
	if x.plain {
		return
	}
	snap := take(x.t, x.kiln)
	if left := append(snap.strays, snap.state...); len(left) > 0 {
		x.t.Errorf("%s: left behind: %s", what, strings.Join(left, " "))
	}
	for path, lines := range snap.files {
		for _, line := range lines {
			if mode := strings.Fields(line)[1]; strings.ContainsAny(mode, "wu") {
				x.t.Errorf("%s: in %s: %s", what, path, line)
			}
		}
	}
}

// mentioning finds the files below a directory that have a text in their name or
// their content.
func mentioning(t *testing.T, dir, text string) (found []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if strings.Contains(d.Name(), text) {
			found = append(found, path)
		} else if d.Type().IsRegular() {
			content, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			if strings.Contains(string(content), text) {
				found = append(found, path)
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
	return found
}
