package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/kilnbuild/kiln/internal/enclave"
	"github.com/kilnbuild/kiln/internal/testenv"
	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/store/storetest"
	"github.com/kilnbuild/kiln/wire/worker"
)

// inRoot and inRootDir make the test binary keep a mount namespace with another
// root directory, in which the given directory is seen.
const (
	inRoot    = "KILN_DAEMON_ROOT"
	inRootDir = "KILN_DAEMON_ROOT_DIR"
)

// relayTo makes the test binary connect its input and output with a socket.
const relayTo = "KILN_DAEMON_RELAY"

func init() {
	roles[inRoot] = func(root string) error {
		if err := enclave.EnterRoot(root, os.Getenv(inRootDir)); err != nil {
			return err
		}
		fmt.Println("ready")
		_, err := io.Copy(io.Discard, os.Stdin)
		return err
	}
	roles[relayTo] = func(socket string) error {
		conn, err := net.Dial("unix", socket)
		if err != nil {
			return err
		}
		go func() {
			io.Copy(conn, os.Stdin)
			conn.(*net.UnixConn).CloseWrite()
		}()
		_, err = io.Copy(os.Stdout, conn)
		return err
	}
}

// listen serves all clients of a socket until the test ends.
func listen(t *testing.T, socket string, cfg Config) {
	t.Helper()
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	all.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				conn := recording(t, conn)
				if err := Serve(ctx, conn, cfg); err != nil && ctx.Err() == nil {
					t.Errorf("serve: %v", err)
				}
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		cancel()
		all.Wait()
	})
}

// recordTo is a directory for what real clients and the daemon say to each other, in this
// test: wire/worker/testdata has some of it.
const recordTo = "KILN_RECORD"

// recording gives the connection, or one that is recorded, in a file for each direction.
func recording(t *testing.T, conn net.Conn) net.Conn {
	dir := os.Getenv(recordTo)
	if dir == "" {
		return conn
	}
	r := &recorded{Conn: conn}
	name := strings.ReplaceAll(t.Name(), "/", "-")
	for _, f := range []struct {
		to  **os.File
		end string
	}{{&r.client, "client"}, {&r.server, "server"}} {
		var err error
		if *f.to, err = os.CreateTemp(dir, name+"-*."+f.end); err != nil {
			t.Error(err)
		}
	}
	// They belong together.
	os.Rename(r.server.Name(), strings.TrimSuffix(r.client.Name(), "client")+"server")
	return r
}

// A recorded connection writes down what goes through it.
type recorded struct {
	net.Conn
	client, server *os.File
}

func (r *recorded) Read(p []byte) (int, error) {
	n, err := r.Conn.Read(p)
	r.client.Write(p[:n])
	return n, err
}

func (r *recorded) Write(p []byte) (int, error) {
	n, err := r.Conn.Write(p)
	r.server.Write(p[:n])
	return n, err
}

func (r *recorded) Close() error {
	return errors.Join(r.Conn.Close(), r.client.Close(), r.server.Close())
}

// clients are the real Nix of PATH, and where root can have it a newer one. The
// functions give what stands before the words of a command.
func clients(t *testing.T) map[string]func(*testing.T, *testenv.Scene) []string {
	t.Helper()
	all := map[string]func(*testing.T, *testenv.Scene) []string{
		testenv.NixVersion(t): func(*testing.T, *testenv.Scene) []string { return nil },
	}
	if testenv.Root() {
		all["2.34"] = func(t *testing.T, scene *testenv.Scene) []string {
			return []string{"nsenter", "--mount=" + newRoom(t, scene.Dir), "--"}
		}
	}
	return all
}

// newRoom gives the file of a mount namespace whose root directory is that of a
// newer Nix. It ends with the test.
func newRoom(t *testing.T, dir string) string {
	t.Helper()
	peer := exec.Command("../.ci/peer", "2.34")
	var said strings.Builder
	peer.Stderr = &said
	root, err := peer.Output()
	if err != nil {
		testenv.SkipTool(t, "no Nix 2.34 to serve: %v: %s", err, said.String())
	}
	keeper := exec.Command("/proc/self/exe")
	keeper.Env = append(os.Environ(), inRoot+"="+strings.TrimSpace(string(root)), inRootDir+"="+dir)
	keeper.Stderr = os.Stderr
	ready, err := keeper.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	alive, err := keeper.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := keeper.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		alive.Close()
		io.Copy(io.Discard, ready)
		if err := keeper.Wait(); err != nil {
			t.Error(err)
		}
	})
	if _, err := ready.Read(make([]byte, 1)); err != nil {
		t.Fatalf("enter the root directory %s: %v", root, err)
	}
	return fmt.Sprintf("/proc/%d/ns/mnt", keeper.Process.Pid)
}

// newRelay makes a program that connects its input and output with a socket of the
// scene, and gives its name.
func newRelay(t *testing.T, scene *testenv.Scene) func(socket string) string {
	t.Helper()
	self, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(scene.Path("relay"), self, 0o755); err != nil {
		t.Fatal(err)
	}
	return func(socket string) string {
		p := scene.Path("to-" + socket)
		script := "#!/bin/sh\n" + relayTo + "=" + scene.Path(socket) + " exec " + scene.Path("relay") + "\n"
		if err := os.WriteFile(p, []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
		return p
	}
}

// TestRealClients has real Nix ask for what it asks daemons for.
func TestRealClients(t *testing.T) {
	for version, prefix := range clients(t) {
		t.Run(version, func(t *testing.T) { realClient(t, prefix) })
	}
}

func realClient(t *testing.T, in func(*testing.T, *testenv.Scene) []string) {
	scene := testenv.NewScene(t, "")
	dep := storetest.Text(t, nix.DefaultStoreDir, "dep", "dependency")
	text := storetest.Text(t, nix.DefaultStoreDir, "text", "refers to "+nix.DefaultStoreDir.Join(dep.Info.Path), dep.Info.Path)
	s := newStore(t, dep, text)
	works, fails := newDerivation(t, s, "works"), newDerivation(t, s, "fails")
	listen(t, scene.Path("socket"), Config{Store: s, Builder: builderOf(t, s), Trust: worker.Trusted})

	prefix := in(t, scene)
	// By its socket, Nix takes it for granted that it sees the daemon's files. By
	// ssh-ng it asks for everything; for localhost it starts the program itself.
	relay := newRelay(t, scene)
	remote := func(socket string) string {
		return "ssh-ng://localhost?remote-program=" + relay(socket)
	}
	run := func(words ...string) (out, said string, err error) {
		words = append(prefix[:len(prefix):len(prefix)], words...)
		cmd := exec.Command(words[0], words[1:]...)
		cmd.Env = append(scene.Env(), "NIX_REMOTE="+remote("socket"), "NIX_CONFIG=experimental-features = nix-command\nsubstituters =\n")
		var errs strings.Builder
		cmd.Stderr = &errs
		b, err := cmd.Output()
		return strings.TrimSuffix(string(b), "\n"), errs.String(), err
	}
	must := func(words ...string) string {
		t.Helper()
		out, said, err := run(words...)
		if err != nil {
			t.Fatalf("%s: %v\n%s", strings.Join(words, " "), err, said)
		}
		return out
	}
	full := func(p nix.StorePath) string { return nix.DefaultStoreDir.Join(p) }

	if out := must("nix-store", "--query", "--references", full(text.Info.Path)); out != full(dep.Info.Path) {
		t.Errorf("references: %q", out)
	}
	if out := must("nix-store", "--query", "--referrers", full(dep.Info.Path)); out != full(text.Info.Path) {
		t.Errorf("referrers: %q", out)
	}
	if out := must("nix-store", "--query", "--hash", full(text.Info.Path)); out != text.Info.NARHash.String() {
		t.Errorf("hash: %q", out)
	}
	if out := must("nix-store", "--query", "--outputs", full(works)); !strings.HasSuffix(out, "-works") {
		t.Errorf("outputs: %q", out)
	}
	if out := must("nix", "--store", "unix://"+scene.Path("socket"), "path-info", full(text.Info.Path)); out != full(text.Info.Path) {
		t.Errorf("path-info by socket: %q", out)
	}
	if out := must("nix", "path-info", "--json", full(text.Info.Path)); !strings.Contains(out, string(dep.Info.Path)) {
		t.Errorf("path-info: %s", out)
	}
	if out := must("nix", "store", "cat", full(text.Info.Path)); out != "refers to "+full(dep.Info.Path) {
		t.Errorf("cat: %q", out)
	}
	if _, said, err := run("nix", "path-info", full("00000000000000000000000000000000-none")); err == nil || !strings.Contains(said, "is not valid") {
		t.Errorf("path-info of nothing: %v, %s", err, said)
	}

	// Objects from the client.
	file := scene.Path("file")
	if err := os.WriteFile(file, []byte("some text"), 0o644); err != nil {
		t.Fatal(err)
	}
	tree := scene.Mkdir("tree")
	if err := os.WriteFile(filepath.Join(tree, "large"), bytes.Repeat([]byte("0123456789"), 300_000), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, words := range [][]string{
		{"nix-store", "--add", tree},
		{"nix-store", "--add-fixed", "sha1", file},
		{"nix-store", "--add-fixed", "--recursive", "sha256", file},
		{"nix", "store", "add-file", file},
		{"nix", "store", "add-path", tree},
	} {
		p, err := nix.DefaultStoreDir.Parse(must(words...))
		if err != nil {
			t.Fatal(err)
		}
		info, err := s.PathInfo(t.Context(), p)
		if err != nil || info.CA.IsZero() {
			t.Errorf("%s: %+v, %v", strings.Join(words, " "), info, err)
		}
	}
	expr := `derivation { name = "new"; system = "x"; builder = "y"; file = builtins.toFile "t" "text"; }`
	instantiated, err := nix.DefaultStoreDir.Parse(must("nix-instantiate", "--expr", expr))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.PathInfo(t.Context(), instantiated); err != nil {
		t.Error(err)
	}

	// Copies, from one daemon to another.
	other := newStore(t)
	listen(t, scene.Path("other"), Config{Store: other, Trust: worker.Trusted})
	must("nix", "copy", "--no-check-sigs", "--from", remote("socket"), "--to", remote("other"), full(text.Info.Path))
	if _, err := other.PathInfo(t.Context(), text.Info.Path); err != nil {
		t.Error(err)
	}

	// Builds.
	out, said, err := run("nix-store", "--realise", full(works))
	if err != nil || !strings.HasSuffix(out, "-works") || !strings.Contains(said, "this is the log of works\nand its second line\n") {
		t.Errorf("realise: %v, %q\n%s", err, out, said)
	}
	// Clients that are not trusted.
	strange := newStore(t, dep, text)
	listen(t, scene.Path("strange"), Config{Store: strange, Trust: worker.NotTrusted})
	if _, said, err := run("nix", "copy", "--no-check-sigs", "--from", remote("socket"), "--to", remote("strange"), out); err == nil || !strings.Contains(said, "no signature is trusted") {
		t.Errorf("copy without a signature: %v\n%s", err, said)
	}

	_, said, err = run("nix-store", "--realise", full(fails))
	var exit *exec.ExitError
	if !errors.As(err, &exit) || !strings.Contains(said, "builder of fails failed on purpose") {
		t.Errorf("realise what fails: %v\n%s", err, said)
	}
	installable := full(fails)
	if prefix != nil { // newer than 2.15: the path alone is the file
		installable += "^*"
	}
	_, said, err = run("nix", "build", "--no-link", "-L", installable)
	if err == nil || !strings.Contains(said, "builder of fails failed on purpose") || !strings.Contains(said, "fails> this is the log of fails") {
		t.Errorf("build: %v\n%s", err, said)
	}
	if _, said, err := run("nix-store", "--optimise"); err == nil || !strings.Contains(said, "does not support the operation OptimiseStore") {
		t.Errorf("optimise: %v\n%s", err, said)
	}
}
