//go:build linux

package interop

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/kilnbuild/kiln/internal/rmtree"
	"github.com/kilnbuild/kiln/internal/testenv"
	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/store"
	"github.com/kilnbuild/kiln/store/local"
	"github.com/kilnbuild/kiln/store/storetest"
)

// A yard is a store with garbage in it, whose files are where its paths say, so that
// what processes use of it is known to both programs. It is made anew from the same
// seed for each of them.
type yard struct {
	t     *testing.T
	scene *testenv.Scene
	seed  string
	root  string
	dir   nix.StoreDir
	paths map[string]nix.StorePath
	close []func()
}

func newYard(t *testing.T) *yard {
	t.Helper()
	testenv.NixVersion(t)
	scene := newScene(t)
	y := &yard{t: t, scene: scene, seed: scene.Path("seed"), root: scene.Path("yard"), paths: map[string]nix.StorePath{}}
	y.dir = nix.StoreDir(filepath.Join(y.root, "store"))
	st := y.open(false)
	y.fill(st)
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(y.root, y.seed); err != nil {
		t.Fatal(err)
	}
	return y
}

func (y *yard) options(readOnly bool) local.Options {
	return local.Options{
		StoreDir: y.dir, StateDir: filepath.Join(y.root, "state"), LogDir: filepath.Join(y.root, "log"),
		ReadOnly: readOnly, Warn: func(err error) { y.t.Errorf("warning: %v", err) },
		UseSQLiteWAL: true,
	}
}

func (y *yard) open(readOnly bool) *local.Store {
	y.t.Helper()
	st, err := local.Open(context.Background(), y.options(readOnly))
	if err != nil {
		y.t.Fatal(err)
	}
	return st
}

// fill makes a chain (top, middle, bottom), two that share a third, one that refers
// to itself, a program, and a derivation with one that it needs, and their outputs.
func (y *yard) fill(st *local.Store) {
	t := y.t
	add := func(name string, o storetest.Object) nix.StorePath {
		t.Helper()
		if err := st.Add(context.Background(), &o.Info, bytes.NewReader(o.NAR), store.AddOptions{}); err != nil {
			t.Fatal(err)
		}
		y.paths[name] = o.Info.Path
		return o.Info.Path
	}
	built := func(name string, refs ...nix.StorePath) nix.StorePath {
		return add(name, storetest.Built(t, y.dir, name, name == "self", refs...))
	}
	top := built("middle", built("bottom"))
	built("top", top)
	shared := built("shared")
	built("left", shared)
	built("right", shared)
	built("self", shared)
	add("text", storetest.Text(t, y.dir, "text", "some text", shared))
	busybox, err := os.ReadFile(testenv.Busybox(t))
	if err != nil {
		t.Fatal(err)
	}
	program := storetest.Built(t, y.dir, "program", false)
	program.NAR = storetest.Archive(t, storetest.Node{Executable: true, Content: string(busybox)})
	program.Info.NARHash, program.Info.NARSize = nix.HashBytes(nix.SHA256, program.NAR), int64(len(program.NAR))
	add("program", program)

	const expr = `let
		d = name: more: derivation ({ inherit name; system = "none"; builder = "/none"; } // more);
		needed = d "needed" { outputs = [ "out" "dev" ]; };
		made = d "made" { inherit needed; };
		again = d "again" { x = 1; };
	in { madeDrv = made.drvPath; made = made.outPath; neededDrv = needed.drvPath; needed = needed.outPath; neededDev = needed.dev.outPath;
		againDrv = again.drvPath; again = again.outPath; }`
	var made map[string]string
	cmd := y.command("nix-instantiate", "--eval", "--strict", "--json", "--read-write-mode", "-E", expr)
	if err := json.Unmarshal([]byte(strings.Join(must(t, cmd), "\n")), &made); err != nil {
		t.Fatal(err)
	}
	for name, full := range made {
		p, err := y.dir.Parse(full)
		if err != nil {
			t.Fatal(err)
		}
		y.paths[name] = p
	}
	output := func(name, drv string, refs ...nix.StorePath) {
		o := storetest.Built(t, y.dir, name, false, refs...)
		o.Info.Path = y.paths[name]
		if drv != "" {
			o.Info.Deriver = y.paths[drv]
		}
		add(name, o)
	}
	output("needed", "neededDrv")
	output("neededDev", "neededDrv")
	output("made", "madeDrv", y.paths["neededDev"])
	output("again", "") // built elsewhere: nobody knows from what
}

// command is a command on the yard's store.
func (y *yard) command(words ...string) *exec.Cmd {
	cmd := sceneCommand(y.scene, words...)
	cmd.Env = append(cmd.Env, "NIX_STORE_DIR="+string(y.dir), "NIX_STATE_DIR="+filepath.Join(y.root, "state"),
		"NIX_LOG_DIR="+filepath.Join(y.root, "log"))
	return cmd
}

func (y *yard) kiln(words ...string) *exec.Cmd {
	return y.command(append([]string{testenv.Kiln(y.t), "--store", "local"}, words...)...)
}

// full is the path of an object, or of something in it.
func (y *yard) full(name string) string {
	name, inside, _ := strings.Cut(name, "/")
	p, ok := y.paths[name]
	if !ok {
		y.t.Fatalf("there is no %q", name)
	}
	return strings.TrimSuffix(y.dir.Join(p)+"/"+inside, "/")
}

// link makes a link in the state directory, or elsewhere in the yard.
func (y *yard) link(target string, names ...string) string {
	y.t.Helper()
	name := filepath.Join(append([]string{y.root, "state"}, names...)...)
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		y.t.Fatal(err)
	}
	if err := os.Symlink(target, name); err != nil {
		y.t.Fatal(err)
	}
	return name
}

func (y *yard) write(name, text string) *os.File {
	y.t.Helper()
	if err := os.MkdirAll(filepath.Dir(name), 0o755); err != nil {
		y.t.Fatal(err)
	}
	f, err := os.Create(name)
	if err == nil {
		_, err = f.WriteString(text)
	}
	if err != nil {
		y.t.Fatal(err)
	}
	y.close = append(y.close, func() { f.Close() })
	return f
}

// temp writes a file with temporary roots, of a living process or of a dead one.
func (y *yard) temp(alive bool, text string) {
	f := y.write(filepath.Join(y.root, "state", "temproots", "4711"), text)
	if alive {
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
			y.t.Fatal(err)
		}
	}
}

// process starts a process that lives until the yard is cleared.
func (y *yard) process(cmd *exec.Cmd) {
	y.t.Helper()
	if err := cmd.Start(); err != nil {
		y.t.Fatal(err)
	}
	y.close = append(y.close, func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	// Until it is what it is to be, it is a copy of this one.
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); time.Sleep(time.Millisecond) {
		if exe, _ := os.Readlink("/proc/self/exe"); exe != "" {
			if now, err := os.Readlink("/proc/" + strconv.Itoa(cmd.Process.Pid) + "/exe"); err == nil && now != exe {
				return
			}
		}
	}
	y.t.Fatal("the process does not start")
}

// age makes a link old.
func (y *yard) age(name string, days int) {
	y.t.Helper()
	ts := []unix.Timespec{unix.NsecToTimespec(time.Now().Add(-time.Duration(days) * 24 * time.Hour).UnixNano()), {}}
	ts[1] = ts[0]
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, name, ts, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		y.t.Fatal(err)
	}
}

// profile makes a profile with generations, of which the last is the current one.
func (y *yard) profile(dir string, objects ...string) {
	for i, o := range objects {
		link := y.link(y.full(o), dir, "p-"+strconv.Itoa(i+1)+"-link")
		y.age(link, 10*(len(objects)-i)-5)
	}
	y.link("p-"+strconv.Itoa(len(objects))+"-link", dir, "p")
}

// A gcCase is an arrangement of roots, and what is done then.
type gcCase struct {
	name    string
	arrange func(y *yard)
	nix     []string // nix-store --gc if empty
	kiln    []string // kiln gc if empty
	refused bool     // both exit with an error
	keeps   string   // an object that must be left, so that the arrangement is known to be one
	output  bool     // both print the same paths
}

var gcCases = []gcCase{
	{name: "nothing is needed"},
	{name: "a link", arrange: func(y *yard) { y.link(y.full("top"), "gcroots", "r") }},
	{name: "a link into the middle of a chain", arrange: func(y *yard) { y.link(y.full("middle"), "gcroots", "r") }},
	{name: "links in directories", arrange: func(y *yard) {
		y.link(y.full("left"), "gcroots", "a", "b", "c", "r")
		y.link(y.full("self"), "gcroots", "per-user", "me", "r")
	}},
	{name: "a link to a file of an object", arrange: func(y *yard) { y.link(y.full("top/bin/run"), "gcroots", "r") }},
	{name: "an indirect root", keeps: "right", arrange: func(y *yard) {
		y.link(y.link(y.full("right"), "..", "elsewhere", "result"), "gcroots", "auto", "r")
	}},
	{name: "an indirect root with a relative link", arrange: func(y *yard) {
		y.link(y.full("right"), "elsewhere", "result")
		y.link("../../elsewhere/result", "gcroots", "auto", "r")
	}},
	{name: "an indirect root that has gone", arrange: func(y *yard) {
		y.link(y.root+"/elsewhere/result", "gcroots", "auto", "r")
		y.link(y.root+"/elsewhere/result", "gcroots", "other")
	}},
	{name: "an indirect root whose directory is a file now", arrange: func(y *yard) {
		y.write(filepath.Join(y.root, "elsewhere"), "")
		y.link(y.root+"/elsewhere/result", "gcroots", "auto", "r")
	}},
	{name: "an indirect root by two links", arrange: func(y *yard) {
		first := y.link(y.full("right"), "..", "elsewhere", "first")
		y.link(y.link(first, "..", "elsewhere", "second"), "gcroots", "auto", "r")
	}},
	{name: "a directory that a link leads to", arrange: func(y *yard) {
		y.link(y.full("right"), "..", "elsewhere", "r")
		y.link(y.root+"/elsewhere", "gcroots", "dir")
	}},
	{name: "links in a circle", arrange: func(y *yard) {
		y.link(y.root+"/state/gcroots/b", "gcroots", "a")
		y.link(y.root+"/state/gcroots/a", "gcroots", "b")
		y.link(y.full("left"), "gcroots", "c")
	}},
	{name: "links to anything", arrange: func(y *yard) {
		y.link("/etc/passwd", "gcroots", "file")
		y.link(string(y.dir)+"/no-store-path", "gcroots", "name")
		y.link(string(y.dir), "gcroots", "store")
		y.link(y.full("text"), "gcroots", "text")
	}},
	{name: "a link to what is not valid", arrange: func(y *yard) {
		y.link(string(y.dir)+"/"+strings.Repeat("a", 32)+"-none", "gcroots", "r")
	}},
	{name: "a file called like an object", keeps: "top", arrange: func(y *yard) {
		y.write(filepath.Join(y.root, "state", "gcroots", string(y.paths["top"])), "")
	}},
	{name: "a profile", keeps: "left", arrange: func(y *yard) { y.profile("profiles", "top", "left") }},
	{name: "profiles of users", arrange: func(y *yard) { y.profile("profiles/per-user/me", "right", "self", "text") }},
	{name: "all old generations are deleted", arrange: func(y *yard) { y.profile("profiles", "top", "left", "text") },
		nix: []string{"nix-collect-garbage", "-d"}, kiln: []string{"gc", "-d"}},
	{name: "old generations are deleted", arrange: func(y *yard) { y.profile("profiles", "top", "left", "right", "text") },
		nix: []string{"nix-collect-garbage", "--delete-older-than", "10d"}, kiln: []string{"gc", "--delete-older-than", "10d"}},
	{name: "an output is needed", arrange: func(y *yard) { y.link(y.full("made"), "gcroots", "r") }},
	{name: "an output is needed, without keep-derivations", arrange: func(y *yard) { y.link(y.full("made"), "gcroots", "r") },
		nix:  []string{"nix-store", "--gc", "--option", "keep-derivations", "false"},
		kiln: []string{"gc", "--option", "keep-derivations", "false"}},
	{name: "an output is needed, with keep-outputs", arrange: func(y *yard) { y.link(y.full("made"), "gcroots", "r") },
		nix: []string{"nix-store", "--gc", "--option", "keep-outputs", "true"}, kiln: []string{"gc", "--keep-outputs"}},
	{name: "an output is needed, with keep-outputs and without keep-derivations", arrange: func(y *yard) { y.link(y.full("made"), "gcroots", "r") },
		nix:  []string{"nix-store", "--gc", "--option", "keep-outputs", "true", "--option", "keep-derivations", "false"},
		kiln: []string{"gc", "--keep-outputs", "--no-keep-derivations"}},
	{name: "a derivation is needed", arrange: func(y *yard) { y.link(y.full("madeDrv"), "gcroots", "r") }},
	{name: "a derivation is needed, with keep-outputs", arrange: func(y *yard) { y.link(y.full("madeDrv"), "gcroots", "r") },
		nix: []string{"nix-store", "--gc", "--option", "keep-outputs", "true"}, kiln: []string{"gc", "--keep-outputs"}},
	{name: "a derivation of an output from elsewhere", arrange: func(y *yard) { y.link(y.full("againDrv"), "gcroots", "r") },
		nix: []string{"nix-store", "--gc", "--option", "keep-outputs", "true"}, kiln: []string{"gc", "--keep-outputs"}},
	{name: "a process with temporary roots", keeps: "middle", arrange: func(y *yard) {
		y.temp(true, y.full("middle")+"\x00"+y.full("needed")+"\x00"+y.full("left"))
	}},
	{name: "a dead process with temporary roots", arrange: func(y *yard) { y.temp(false, y.full("middle")+"\x00") }},
	{name: "temporary roots of what is being built", arrange: func(y *yard) {
		building := string(y.dir) + "/" + strings.Repeat("b", 32) + "-x"
		y.write(building+".lock", "")
		y.write(building+".chroot/file", "")
		y.write(string(y.dir)+"/"+strings.Repeat("c", 32)+"-x.lock", "")
		y.temp(true, building+"\x00")
	}},
	{name: "what is no object", arrange: func(y *yard) {
		y.write(string(y.dir)+"/"+strings.Repeat("c", 32)+"-x.lock", "")
		y.write(string(y.dir)+"/"+strings.Repeat("d", 32)+"-x.check/file", "")
		y.write(string(y.dir)+"/"+strings.Repeat("e", 32)+"-not-registered", "")
		y.write(string(y.dir)+"/invalid name", "")
		y.write(string(y.dir)+"/.tmp-link-1", "")
		y.write(string(y.dir)+"/trash/x/y", "")
		y.link(y.full("text"), "gcroots", "r")
	}},
	{name: "a process that names an object in its environment", keeps: "top", arrange: func(y *yard) {
		cmd := exec.Command("sleep", "100")
		cmd.Env = []string{"X=a:" + y.full("top/bin") + ":b"}
		y.process(cmd)
	}},
	{name: "a process in a directory of an object", keeps: "left", arrange: func(y *yard) {
		cmd := exec.Command("sleep", "100")
		cmd.Dir = y.full("left/bin")
		y.process(cmd)
	}},
	{name: "a process whose program is an object", keeps: "program", arrange: func(y *yard) {
		cmd := exec.Command(y.full("program"), "sleep", "100")
		cmd.Args[0] = "busybox"
		y.process(cmd)
	}},
	{name: "a process that has a file open", keeps: "right", arrange: func(y *yard) {
		f, err := os.Open(y.full("right/bin/run"))
		if err != nil {
			y.t.Fatal(err)
		}
		y.close = append(y.close, func() { f.Close() })
	}},
	{name: "a process that has a file mapped", keeps: "self", arrange: func(y *yard) {
		f, err := os.Open(y.full("self/bin/run"))
		if err != nil {
			y.t.Fatal(err)
		}
		defer f.Close()
		mapped, err := unix.Mmap(int(f.Fd()), 0, 1, unix.PROT_READ, unix.MAP_PRIVATE)
		if err != nil {
			y.t.Fatal(err)
		}
		y.close = append(y.close, func() { unix.Munmap(mapped) })
	}},
	{name: "linked files", arrange: func(y *yard) {
		must(y.t, y.kiln("store", "optimise"))
		y.link(y.full("top"), "gcroots", "r")
	}},
	{name: "no byte may become free", nix: []string{"nix-store", "--gc", "--max-freed", "0"}, kiln: []string{"gc", "--max-freed", "0"}},
	{name: "objects are deleted", nix: []string{"nix-store", "--delete", "@top", "@left"}, kiln: []string{"gc", "@top", "@left"}},
	{name: "an object and who needs it are deleted", nix: []string{"nix-store", "--delete", "@middle", "@top"}, kiln: []string{"gc", "@middle", "@top"}},
	{name: "an object that another needs is deleted", refused: true, nix: []string{"nix-store", "--delete", "@bottom"}, kiln: []string{"gc", "@bottom"}},
	{name: "an object that is needed is deleted", refused: true, arrange: func(y *yard) { y.link(y.full("top"), "gcroots", "r") },
		nix: []string{"nix-store", "--delete", "@top"}, kiln: []string{"gc", "@top"}},
	{name: "a needed object is deleted all the same", arrange: func(y *yard) { y.link(y.full("top"), "gcroots", "r") },
		nix: []string{"nix-store", "--delete", "--ignore-liveness", "@top"}, kiln: []string{"gc", "--ignore-liveness", "@top"}},
	{name: "what others need is deleted all the same", refused: true,
		nix: []string{"nix-store", "--delete", "--ignore-liveness", "@bottom"}, kiln: []string{"gc", "--ignore-liveness", "@bottom"}},
	{name: "the dead are listed", output: true, arrange: func(y *yard) { y.link(y.full("made"), "gcroots", "r") },
		nix: []string{"nix-store", "--gc", "--print-dead"}, kiln: []string{"gc", "--print-dead"}},
	{name: "the living are listed", output: true, arrange: func(y *yard) {
		y.link(y.full("made"), "gcroots", "r")
		y.temp(true, y.full("left")+"\x00")
	}, nix: []string{"nix-store", "--gc", "--print-live"}, kiln: []string{"gc", "--print-live"}},
}

// aftermath is what is left of a yard.
type aftermath struct {
	Valid, Files, Links, State []string
	Failed                     bool
	Output                     []string
}

// TestCollectAsNix collects the same store with the same roots by real Nix and by
// kiln: the same must be left, and before, the same be a root.
func TestCollectAsNix(t *testing.T) {
	// Real Nix waits more than it works.
	const yards = 2
	for n := range yards {
		t.Run(strconv.Itoa(n), func(t *testing.T) {
			t.Parallel()
			y := newYard(t)
			for i := n; i < len(gcCases); i += yards {
				t.Run(strings.ReplaceAll(gcCases[i].name, " ", "-"), func(t *testing.T) { y.with(t).compare(gcCases[i]) })
			}
		})
	}
}

func (y *yard) with(t *testing.T) *yard {
	other := *y
	other.t = t
	return &other
}

func (y *yard) compare(c gcCase) {
	t := y.t
	plain := c.nix == nil
	var roots [2][]string
	var left [2]aftermath
	for i := range 2 {
		y.reset()
		if c.arrange != nil {
			c.arrange(y)
		}
		if i == 0 {
			if plain {
				roots[0] = y.roots(y.command("nix-store", "--gc", "--print-roots"))
			}
			left[0] = y.collect(c, y.command(y.words(c.nix, "nix-store", "--gc")...))
		} else {
			if plain {
				roots[1] = y.roots(y.kiln("gc", "roots"))
			}
			left[1] = y.collect(c, y.kiln(y.words(c.kiln, "gc")...))
		}
		y.clear()
	}
	if d := cmp.Diff(roots[0], roots[1]); d != "" {
		t.Errorf("roots (-nix +kiln):\n%s", d)
	}
	if d := cmp.Diff(left[0], left[1]); d != "" {
		t.Errorf("left (-nix +kiln):\n%s", d)
	}
	if c.keeps != "" && !slices.Contains(left[0].Valid, string(y.paths[c.keeps])) {
		t.Errorf("%s is not left", c.keeps)
	}
	if left[0].Failed != c.refused {
		t.Errorf("real Nix fails: %v, expected %v", left[0].Failed, c.refused)
	}
}

// words are those of a command, in which @NAME stands for an object.
func (y *yard) words(words []string, otherwise ...string) []string {
	if len(words) == 0 {
		return otherwise
	}
	words = slices.Clone(words)
	for i, w := range words {
		if name, ok := strings.CutPrefix(w, "@"); ok {
			words[i] = y.full(name)
		}
	}
	return words
}

func (y *yard) reset() {
	y.t.Helper()
	if err := rmtree.RemoveTree(y.root); err != nil {
		y.t.Fatal(err)
	}
	copyStore(y.t, y.seed, y.root)
}

func (y *yard) clear() {
	for _, f := range slices.Backward(y.close) {
		f()
	}
	y.close = nil
}

var procName = regexp.MustCompile(`^/proc/\d+/\S+`)

// roots gives what a program says are roots. What processes have of an object is
// told in more than one way, so of these only the object counts.
func (y *yard) roots(cmd *exec.Cmd) []string {
	lines := must(y.t, cmd)
	for i, line := range lines {
		lines[i] = procName.ReplaceAllString(line, "/proc")
	}
	slices.Sort(lines)
	return slices.Compact(lines)
}

func (y *yard) collect(c gcCase, cmd *exec.Cmd) aftermath {
	y.t.Helper()
	o := run(y.t, cmd)
	left := aftermath{Failed: o.exit != 0}
	if left.Failed != c.refused {
		y.t.Logf("%s: exit %d\n%s", cmd, o.exit, o.stderr)
	}
	if c.output {
		left.Output = slices.Sorted(slices.Values(o.stdout))
	}
	left.Files, left.Links = names(y.t, string(y.dir)), names(y.t, string(y.dir)+"/.links")
	for _, dir := range []string{"gcroots/auto", "profiles", "temproots"} {
		for _, name := range names(y.t, filepath.Join(y.root, "state", dir)) {
			// Nix leaves the file of its own roots.
			if dir != "temproots" || name == "4711" {
				left.State = append(left.State, dir+"/"+name)
			}
		}
	}
	st := y.open(true)
	defer st.Close()
	for p, err := range st.AllValidPaths(context.Background()) {
		if err != nil {
			y.t.Fatal(err)
		}
		left.Valid = append(left.Valid, string(p))
	}
	return left
}
