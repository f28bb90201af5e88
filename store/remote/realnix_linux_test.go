package remote_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/kilnbuild/kiln/internal/enclave"
	"github.com/kilnbuild/kiln/internal/testenv"
	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/conf"
	"github.com/kilnbuild/kiln/store"
	"github.com/kilnbuild/kiln/store/remote"
	"github.com/kilnbuild/kiln/store/storetest"
)

// inRoot and inRootDir make the test binary a daemon of the Nix whose root directory
// that is, which sees the given directory too.
const (
	inRoot    = "KILN_REMOTE_ROOT"
	inRootDir = "KILN_REMOTE_ROOT_DIR"
)

func init() {
	roles[inRoot] = func(root string) error {
		if err := enclave.EnterRoot(root, os.Getenv(inRootDir)); err != nil {
			return err
		}
		return syscall.Exec("/usr/bin/nix-daemon", []string{"nix-daemon"}, os.Environ())
	}
}

// daemons gives, for the real Nix of PATH, and where root can have it a newer one, a
// function that prepares its daemon.
func daemons(t *testing.T) map[string]func(scene *testenv.Scene) *exec.Cmd {
	t.Helper()
	all := map[string]func(*testenv.Scene) *exec.Cmd{
		testenv.NixVersion(t): func(*testenv.Scene) *exec.Cmd { return exec.Command("nix-daemon") },
	}
	if !testenv.Root() {
		return all
	}
	peer := exec.Command("../../.ci/peer", "2.34")
	var said strings.Builder
	peer.Stderr = &said
	root, err := peer.Output()
	if err != nil {
		testenv.SkipTool(t, "no Nix 2.34 to speak to: %v: %s", err, said.String())
	}
	all["2.34"] = func(scene *testenv.Scene) *exec.Cmd {
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = []string{inRoot + "=" + strings.TrimSpace(string(root)), inRootDir + "=" + scene.Dir}
		return cmd
	}
	return all
}

// config is for the real daemons of tests.
const config = "experimental-features = nix-command ca-derivations\nsubstituters =\nbuild-users-group =\ntrusted-users = *\nfsync-metadata = false\nsandbox = false\n"

// start starts a daemon for a store of its own, and gives a function that opens an
// empty store behind it. store is "" or the store directory, which is then at the
// place of that name: builders see that without a sandbox.
func start(t *testing.T, scene *testenv.Scene, cmd *exec.Cmd, store string) func() *remote.Store {
	t.Helper()
	socket := scene.Path("socket")
	uri, params := "local?root="+scene.Path("root"), ""
	if store != "" {
		uri, params = "local", "?store="+store
		cmd.Env = append(cmd.Env, "NIX_STORE_DIR="+store)
	}
	cmd.Env = append(append(scene.Env(), cmd.Env...), "NIX_DAEMON_SOCKET_PATH="+socket, "NIX_REMOTE="+uri, "NIX_CONFIG="+config)
	var said strings.Builder
	cmd.Stderr = &said
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		// Those of its children that have a client follow it.
		syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM)
		cmd.Wait()
		if t.Failed() {
			t.Logf("the daemon said:\n%s", said.String())
		}
	})
	return func() *remote.Store {
		// A daemon of Nix opens its store anew for each connection. Those that make it side
		// by side can get in each other's way, so one does it.
		removeTree(t, scene.Path("root"))
		s := openURI(t, "unix://"+socket+params)
		var err error
		for range 500 {
			if _, err = s.Ping(t.Context()); err == nil {
				return s
			}
			time.Sleep(10 * time.Millisecond)
		}
		t.Fatal(err)
		return nil
	}
}

// removeTree removes a tree that has directories which nobody may write to.
func removeTree(t *testing.T, dir string) {
	t.Helper()
	filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if d != nil && d.IsDir() {
			os.Chmod(path, 0o700)
		}
		return nil
	})
	if err := os.RemoveAll(dir); err != nil {
		t.Error(err)
	}
}

// openURI opens a store by its URI.
func openURI(t *testing.T, text string) *remote.Store {
	t.Helper()
	u, err := conf.ParseStoreURI(text, "/")
	if err != nil {
		t.Fatal(err)
	}
	opts, err := remote.FromURI(u, "", strings.Fields(os.Getenv("NIX_SSHOPTS")), nil)
	if err != nil {
		t.Fatal(err)
	}
	return open(t, opts)
}

// TestRealDaemonSuite has the daemons of real Nix behind the store.
func TestRealDaemonSuite(t *testing.T) {
	for version, prepare := range daemons(t) {
		t.Run(version, func(t *testing.T) {
			scene := testenv.NewScene(t, "")
			empty := start(t, scene, prepare(scene), "")
			storetest.Run(t, func(*testing.T) store.Store { return empty() })
		})
	}
}

// TestRealDaemonBuilds has real Nix build.
func TestRealDaemonBuilds(t *testing.T) {
	sh := testenv.Busybox(t)
	for version, prepare := range daemons(t) {
		t.Run(version, func(t *testing.T) {
			scene := testenv.NewScene(t, "")
			// Without a sandbox, builders see what the daemon sees.
			if err := os.Link(sh, scene.Path("sh")); err != nil {
				b, err := os.ReadFile(sh)
				if err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(scene.Path("sh"), b, 0o755); err != nil {
					t.Fatal(err)
				}
			}
			s := start(t, scene, prepare(scene), scene.Path("store"))()
			server, err := s.Ping(t.Context())
			if err != nil || !strings.HasPrefix(server.NixVersion, version) {
				t.Errorf("the daemon is %+v, %v", server, err)
			}
			of := func(name, script string) (storetest.Object, *nix.Derivation) {
				return drvOf(t, s.Dir(), name, func(d *nix.Derivation) {
					d.System = testenv.System()
					d.Builder, d.Args = scene.Path("sh"), []string{"-c", script}
					d.Env["out"] = ""
				})
			}
			works, drv := of("works", "echo first line; echo second line; echo built > $out")
			fails, _ := of("fails", "echo some words; exit 3")
			storetest.Add(t, s, works, fails)
			want := []nix.DerivedPath{nix.Built(works.Info.Path, nix.AllOutputs), nix.Built(fails.Info.Path, nix.AllOutputs)}
			log := &events{}
			results, err := s.Build(t.Context(), &nix.BuildRequest{Paths: want[:1], Log: log})
			if err != nil {
				t.Fatal(err)
			}
			r := results[0]
			if r.Status != nix.StatusBuilt || r.Outputs["out"].OutPath != drv.Outputs["out"].Path {
				t.Errorf("result %+v", r)
			}
			if got := log.log.String(); got != "first line\nsecond line\n" {
				t.Errorf("log %q", got)
			}
			if _, err := s.PathInfo(t.Context(), drv.Outputs["out"].Path); err != nil {
				t.Error(err)
			}
			log = &events{}
			results, err = s.Build(t.Context(), &nix.BuildRequest{Paths: want, Log: log})
			if err != nil {
				t.Fatal(err)
			}
			if a, b := results[0].Status, results[1].Status; a != nix.StatusAlreadyValid || b != nix.StatusPermanentFailure {
				t.Errorf("then statuses %v, %v: %+v", a, b, results)
			}
			if m := results[1].Message; !strings.Contains(m, "exit code 3") || strings.Contains(m, "\x1b") {
				t.Errorf("message %q", m)
			}
		})
	}
}

// TestSSH reaches a real daemon by a real sshd.
func TestSSH(t *testing.T) {
	testenv.NixVersion(t)
	scene := testenv.NewScene(t, "")
	sshd := testenv.StartSSHD(t, scene)
	// What the login's environment would not have.
	program := sshd.Program(t, scene, "daemon", []string{"NIX_CONFIG=" + config}, "nix-daemon")
	t.Setenv("NIX_SSHOPTS", sshd.Options+" "+sshd.Shared)
	uri := fmt.Sprintf("ssh-ng://%s?ssh-key=%s&remote-store=%s", sshd.Authority(), sshd.Key, scene.Path("remote"))
	good := uri + "&max-connections=2&compress=true&remote-program=" + program
	s := openURI(t, good)
	dep := storetest.Text(t, s.Dir(), "dep", "text")
	built := storetest.Built(t, s.Dir(), "built", true, dep.Info.Path)
	from := storetest.NewMemory(s.Dir())
	storetest.Add(t, from, dep, built)
	if err := store.CopyClosure(t.Context(), from, s, []nix.StorePath{built.Info.Path}, store.CopyOptions{}); err != nil {
		t.Fatal(err)
	}
	storetest.Check(t, s, built)
	back := storetest.NewMemory(s.Dir())
	if err := store.CopyClosure(t.Context(), s, back, []nix.StorePath{built.Info.Path}, store.CopyOptions{}); err != nil {
		t.Fatal(err)
	}
	storetest.Check(t, back, built)

	// What does not work is told with the words of ssh or the other machine.
	_, err := openURI(t, uri+"&remote-program="+scene.Path("nothing")).PathInfo(t.Context(), dep.Info.Path)
	if err == nil || !strings.Contains(err.Error(), scene.Path("nothing")) || !strings.Contains(err.Error(), "No such file") {
		t.Errorf("no program: %v", err)
	}
	t.Setenv("NIX_SSHOPTS", sshd.Options)
	if err := os.WriteFile(sshd.KnownHosts, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err = openURI(t, good).PathInfo(t.Context(), dep.Info.Path)
	if err == nil || !strings.Contains(err.Error(), "Host key verification failed") {
		t.Errorf("an unknown host: %v", err)
	}
}
