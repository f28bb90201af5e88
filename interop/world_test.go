//go:build linux

package interop

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kilnbuild/kiln/internal/testenv"
)

// A world is a daemon with a store of its own, and a release of real Nix whose commands
// reach it. In two worlds with the same name and client, the same commands are to give
// the same, whoever the daemon is.
type world struct {
	*service
	user int // who runs all of it, when root gives it to somebody else; 0 otherwise
	work string
	worldKind
}

// A worldKind says what is special about a world.
type worldKind struct {
	placed    bool // the store is where its paths say, and not below a root directory
	strangers bool // clients are not trusted
	far       bool // the daemon is another machine's, and clients have a store of their own
}

// newWorld prepares a world without a daemon.
func newWorld(t *testing.T, id string, client *release, user int, kind worldKind) *world {
	t.Helper()
	scene := newPlainScene(t)
	w := &world{service: newService(t, scene), user: user, work: scene.Mkdir("work"), worldKind: kind}
	w.service.release = client
	w.remote = "unix://" + w.socket + "?root=" + w.root
	if w.far {
		w.remote = "local?root=" + w.own()
	}
	if w.placed {
		w.env, w.remote = []string{"NIX_STORE_DIR=" + scene.Path("store")}, "daemon"
		w.socket = scene.Path("state", "daemon-socket", "socket")
	}
	w.furnish(id)
	if user != 0 {
		err := filepath.WalkDir(scene.Dir, func(path string, _ os.DirEntry, err error) error {
			if err == nil {
				err = os.Lchown(path, user, user)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return w
}

// furnish writes the files that commands work with. Derivations of worlds with different
// ids are different, so that the processes of one keep nothing alive in the others.
func (w *world) furnish(id string) {
	t := w.t
	t.Helper()
	text, err := os.ReadFile("testdata/clients.nix")
	if err != nil {
		t.Fatal(err)
	}
	text = bytes.ReplaceAll(text, []byte("@system@"), []byte(testenv.System()))
	text = bytes.ReplaceAll(text, []byte("@id@"), []byte(id))
	flake, err := os.ReadFile("testdata/clients-flake.nix")
	if err != nil {
		t.Fatal(err)
	}
	flake = bytes.ReplaceAll(flake, []byte("@system@"), []byte(testenv.System()))
	secret := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize))
	w.scene.Mkdir("work", "tree", "empty")
	w.scene.Mkdir("work", "flake")
	w.scene.Mkdir("bin")
	for name, text := range map[string]string{
		"work/clients.nix":       string(text),
		"work/flake/clients.nix": string(text),
		"work/flake/flake.nix":   string(flake),
		"work/tree/file":         strings.Repeat("content "+id+"\n", 1000),
		"work/file":              "some text\n",
		"work/registry.json":     `{"flakes":[],"version":2}`,
		"work/secret":            "clients-1:" + base64.StdEncoding.EncodeToString(secret),
		"work/public":            "clients-1:" + base64.StdEncoding.EncodeToString(secret.Public().(ed25519.PublicKey)),
		"work/prelude":           prelude,
		"work/vars":              "",
	} {
		write(t, w.scene.Path(name), text)
	}
	tool := write(t, w.scene.Path("work/tree/tool"), "#!/bin/sh\n")
	bash := write(t, w.scene.Path("bin/bash"), bashProgram(t, w.scene.Mkdir("lib")))
	for _, name := range []string{tool, bash} {
		if err := os.Chmod(name, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	// Releases with a root directory of their own lack these.
	for _, name := range []string{"grep", "sed", "cmp"} {
		if err := os.Symlink(visible(t, testenv.Busybox(t)), w.scene.Path("bin", name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("no/where", w.scene.Path("work/tree/link")); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"flake/clients.nix", "flake/flake.nix", "flake"} {
		if err := os.Chtimes(filepath.Join(w.work, name), time.Unix(1, 0), time.Unix(1, 0)); err != nil {
			t.Fatal(err)
		}
	}
	// Clients that become another program leave temporary files; the daemon must not.
	w.clients = append(w.clients, "TMPDIR="+w.scene.Mkdir("work", "tmp"), "W="+w.work, "S="+w.prefix(), "PATH="+w.scene.Path("bin")+":"+os.Getenv("PATH"), "NIX_BUILD_SHELL="+bash,
		"NIX_CONFIG=extra-experimental-features = nix-command flakes ca-derivations\nflake-registry = "+filepath.Join(w.work, "registry.json"))
}

// prefix is what stands before a store path in the name of a file that clients see.
func (w *world) prefix() string {
	switch {
	case w.placed:
		return ""
	case w.far:
		return w.own()
	}
	return w.root
}

// prelude begins every script. keep makes variables known to the scripts that follow, and
// damage spoils an object that is a file, and none that shares its content.
const prelude = `set -eu
cd "$W"
. ./vars
keep() { for name; do eval "printf '%s=%s\n' $name \"'\$$name'\"" >>vars; done; }
damage() { rm -f "$S$1"; echo damaged >"$S$1"; }
`

// settings are those of daemons, by name.
func (w *world) settings() map[string]string {
	paths := "/bin/sh=" + visible(w.t, testenv.Busybox(w.t))
	for place, file := range bashFiles(w.t) {
		paths += " " + place + "=" + visible(w.t, file)
	}
	settings := map[string]string{
		"sandbox": "true", "sandbox-fallback": "false", "sandbox-paths": paths, "build-users-group": "", "builders": "", "substituters": "",
		"trusted-users": "*", "cores": "1", "max-jobs": "2", "fsync-metadata": "false",
		"extra-experimental-features": "nix-command flakes ca-derivations",
	}
	if w.strangers {
		public, err := os.ReadFile(filepath.Join(w.work, "public"))
		if err != nil {
			w.t.Fatal(err)
		}
		settings["trusted-users"] = "nobody"
		settings["trusted-public-keys"] = string(public)
		settings["trusted-substituters"] = "https://known.example/"
	}
	return settings
}

// config is settings as nix.conf has them.
func (w *world) config() string {
	var config strings.Builder
	for name, value := range w.settings() {
		fmt.Fprintf(&config, "%s = %s\n", name, value)
	}
	return config.String()
}

// startKiln has kiln be the daemon.
func (w *world) startKiln() {
	w.t.Helper()
	if w.far {
		as := filepath.Join(w.scene.Mkdir("as"), "nix-daemon")
		if err := os.Symlink(testenv.Kiln(w.t), as); err != nil {
			w.t.Fatal(err)
		}
		w.answerSSH(as)
		return
	}
	words := []string{visible(w.t, testenv.Kiln(w.t)), "daemon", "--option", "fsync-store-paths", "false"}
	if !w.placed {
		words = append(words, "--store", w.root)
	}
	if w.strangers {
		words = append(words, "--force-untrusted") // whoever it runs as is trusted otherwise
	}
	for name, value := range w.settings() {
		words = append(words, "--option", name, value)
	}
	w.launch(w.give(sceneCommand(w.scene, words...)))
}

// startNix has real Nix of a release be the daemon.
func (w *world) startNix(r *release) {
	t := w.t
	t.Helper()
	cmd := w.give(r.command(w.scene, "nix-daemon"))
	if w.far {
		w.answerSSH(append([]string{cmd.Path}, cmd.Args[1:]...)...)
		return
	}
	store := "local"
	if !w.placed {
		store += "?root=" + w.root
	}
	cmd.Env = append(cmd.Env, "NIX_CONFIG="+w.config(), "NIX_REMOTE="+store, "NIX_DAEMON_SOCKET_PATH="+w.socket)
	if w.placed {
		cmd.Env = append(cmd.Env, "NIX_STORE_DIR="+w.scene.Path("store"))
	}
	var said bytes.Buffer
	cmd.Stderr = &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// With those of its children that have a client.
		syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM)
		cmd.Wait()
		if t.Failed() {
			t.Logf("the daemon of Nix %s said:\n%s", r.version, ending(said.String()))
		}
	})
	for range 500 {
		if conn, err := net.Dial("unix", w.socket); err == nil {
			conn.Close()
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("nix-daemon does not listen:\n%s", said.String())
}

// give has a command run by the user of the world.
func (w *world) give(cmd *exec.Cmd) *exec.Cmd {
	if w.user == 0 {
		return cmd
	}
	if filepath.Base(cmd.Path) == "nsenter" {
		// Only root can enter. The words are its name, the namespace, and the others.
		id := fmt.Sprint(w.user)
		cmd.Args = slices.Insert(cmd.Args, 2, "--setuid="+id, "--setgid="+id)
		return cmd
	}
	cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(w.user), Gid: uint32(w.user)}
	return cmd
}

// script runs a script of shell commands among the clients of the daemon. Only an error
// of its own making is one.
func (w *world) script(text string) (outcome, error) {
	cmd := w.give(w.client("sh", "-c", ". \"$W/prelude\"\n"+text))
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Start(); err != nil {
		return outcome{}, err
	}
	ctx, cancel := context.WithTimeout(context.Background(), commandLimit)
	defer cancel()
	defer context.AfterFunc(ctx, func() { syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) })()
	cmd.Wait()
	if ctx.Err() != nil {
		return outcome{}, fmt.Errorf("it did not end in %v:\n%s", commandLimit, stderr.String())
	}
	o := outcome{exit: cmd.ProcessState.ExitCode(), stderr: colours.ReplaceAllString(stderr.String(), "")}
	text = strings.ReplaceAll(colours.ReplaceAllString(stdout.String(), ""), w.scene.Dir, "SCENE")
	if w.placed {
		// What is in the names of paths depends on where the store is.
		text = hashPart.ReplaceAllString(text, "/HASH-")
	}
	o.stdout = strings.Split(strings.TrimSuffix(text, "\n"), "\n")
	return o, nil
}

var hashPart = regexp.MustCompile(`/[0-9abcdfghijklmnpqrsvwxyz]{32}-`)

// bashFiles are the machine's bash and what it needs, by the places for them in a
// sandbox: nix develop wants a builder that is bash.
func bashFiles(t *testing.T) map[string]string {
	t.Helper()
	bash, err := exec.LookPath("bash")
	if err != nil {
		testenv.SkipTool(t, "no bash in PATH; install it with: apt-get install bash")
	}
	out, err := exec.Command("ldd", bash).Output()
	if err != nil {
		t.Fatalf("ldd %s: %v", bash, err)
	}
	files := map[string]string{"/bin/bash": bash}
	for _, name := range library.FindAllString(string(out), -1) {
		if files[name], err = filepath.EvalSymlinks(name); err != nil {
			t.Fatal(err)
		}
	}
	return files
}

var library = regexp.MustCompile(`/\S+`)

// bashProgram is a script that is the machine's bash in every root directory. What bash
// needs is linked to from dir.
func bashProgram(t *testing.T, dir string) string {
	t.Helper()
	files := bashFiles(t)
	words := visible(t, files["/bin/bash"])
	for place, file := range files {
		file = visible(t, file)
		if strings.HasPrefix(filepath.Base(place), "ld-") {
			words = file + " --library-path " + dir + " " + words
		} else if err := os.Symlink(file, filepath.Join(dir, filepath.Base(place))); err != nil {
			t.Fatal(err)
		}
	}
	return "#!/bin/sh\nexec " + words + " \"$@\"\n"
}
