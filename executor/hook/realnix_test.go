package hook

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kilnbuild/kiln/internal/testenv"
	"github.com/kilnbuild/kiln/nix/logline"
)

// A far is real Nix with two stores: one that a build is wanted in, and one of a
// machine, which is on this machine too.
type far struct {
	*bench
	words       []string // before a command of Nix
	remote      []string // the build hook
	here, there string
}

// everyNix runs a test with the machine's Nix and, as root, with those in the
// root directories that KILN_PEERS lists.
func everyNix(t *testing.T, f func(t *testing.T, n *far)) {
	t.Helper()
	testenv.NixVersion(t)
	testenv.Sandbox(t)
	run := func(t *testing.T, root string) {
		n := &far{bench: newBench(t)}
		n.here, n.there = n.Mkdir("here"), n.Mkdir("there")
		if root != "" {
			n.words = []string{n.peer(), root, n.Dir}
			n.remote = append(n.words[:3:3], "nix", "__build-remote")
		} else {
			// Nix 2.8 knows the hook by this name only, later ones by this too.
			program, err := exec.LookPath("nix")
			must(t, err)
			n.remote = []string{n.Path("build-remote")}
			must(t, os.Symlink(program, n.remote[0]))
		}
		f(t, n)
	}
	t.Run("own", func(t *testing.T) { run(t, "") })
	if testenv.Root() {
		for _, root := range filepath.SplitList(os.Getenv("KILN_PEERS")) {
			t.Run(filepath.Base(root), func(t *testing.T) { run(t, root) })
		}
	}
}

// peer is a program that runs another in a root directory, in which the bench is
// where it was.
func (b *bench) peer() string {
	const script = `#!/bin/sh
if [ "$1" != inside ]; then
	exec unshare --mount --propagation private "$0" inside "$@"
fi
set -e
root=$2 work=$3
shift 3
mount --bind "$root" "$root"
for dir in proc dev sys; do mount --rbind "/$dir" "$root/$dir"; done
for file in passwd group; do mount --bind "/etc/$file" "$root/etc/$file"; done
top=${work#/}
mount -t tmpfs none "$root/${top%%/*}"
mkdir -p "$root$work"
mount --rbind "$work" "$root$work"
cd "$root"
pivot_root . .
umount -l .
cd /
exec "$@"
`
	p := b.Path("peer")
	must(b.t, os.WriteFile(p, []byte(script), 0o755))
	return p
}

// nix runs a command of Nix on the store here, and gives what it prints.
func (n *far) nix(args ...string) string {
	n.t.Helper()
	args = append(append(n.words[:len(n.words):len(n.words)], args...), "--store", "local?root="+n.here)
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Env = n.Env()
	var warnings strings.Builder
	cmd.Stderr = &warnings
	out, err := cmd.Output()
	if err != nil {
		n.t.Fatalf("%q: %v\n%s", args, err, warnings.String())
	}
	return strings.TrimSpace(string(out))
}

// instantiate makes a derivation whose builder runs a script, and gives its path
// and that of its input.
func (n *far) instantiate(script string) (drv, input string) {
	n.t.Helper()
	expr := n.Path("expr.nix")
	must(n.t, os.WriteFile(expr, []byte(`let input = builtins.toFile "input" "from here\n"; in derivation {
  name = "far"; system = "`+testenv.System()+`"; builder = "/bin/sh"; args = [ "-c" ''`+script+`'' ];
  inherit input; outputs = [ "out" "dev" ]; requiredSystemFeatures = [ "far" ];
}`), 0o644))
	drv = n.nix("nix-instantiate", expr)
	return drv, n.nix("nix-store", "--query", "--references", drv)
}

func (n *far) hook(builders string) BuildHook {
	// The shell is where the peers see it as well.
	shell := n.Path("busybox")
	text, err := os.ReadFile(testenv.Busybox(n.t))
	must(n.t, err)
	must(n.t, os.WriteFile(shell, text, 0o755))
	return BuildHook{
		Words:     n.remote,
		Verbosity: logline.Chatty, Env: n.Env(), KillTimeout: 10 * time.Second,
		Settings: map[string]string{
			"builders": builders, "store": "local?root=" + n.here,
			"sandbox": "true", "sandbox-paths": "/bin/sh=" + shell, "build-users-group": "", "system-features": "far",
			"substituters": "", "max-jobs": "1", "experimental-features": "nix-command", "cores": "1",
		},
	}
}

func (n *far) machine() string {
	return "local?root=" + n.there + " " + testenv.System() + " - 1 1 far"
}

func (n *far) request(l *listener, drv string, inputs ...string) Request {
	r := l.request()
	r.Drv, r.System, r.Features, r.Inputs = drv, testenv.System(), []string{"far"}, inputs
	return r
}

func TestRealNix(t *testing.T) {
	everyone(t, func(t *testing.T) {
		everyNix(t, func(t *testing.T, n *far) {
			drv, input := n.instantiate(`echo hello; read line < $input; echo "$line, and there" > $out; echo d > $dev`)
			p := pool(t, n.hook(n.machine()))
			var l listener

			other := n.request(&l, drv)
			other.System = "sparc-linux"
			try(t, p, other, Declined)
			running := try(t, p, n.request(&l, drv, input), Accepted)
			if !strings.Contains(running.Machine(), n.there) {
				t.Errorf("the machine is %q", running.Machine())
			}
			if err := running.Wait(t.Context()); err != nil {
				t.Fatalf("%v\n%q", err, l.messages)
			}
			out := n.nix("nix-store", "--query", "--binding", "out", drv)
			n.nix("nix-store", "--check-validity", out)
			for _, root := range []string{n.here, n.there} {
				text, err := os.ReadFile(filepath.Join(root, out))
				if string(text) != "from here, and there\n" || err != nil {
					t.Errorf("the output in %s is %q, %v", root, text, err)
				}
			}
			if l.log.String() != "hello\n" {
				t.Errorf("the log is %q", l.log.String())
			}
			if len(l.texts) > 0 {
				t.Errorf("it says what is no message: %q", l.texts)
			}
		})
	})
}

// TestRealNixServer has the machine behind a server, which Nix starts by itself if
// the machine is localhost: the log then comes through descriptor 4 from one kind
// of server, and in messages from the other.
func TestRealNixServer(t *testing.T) {
	for _, scheme := range []string{"ssh", "ssh-ng"} {
		t.Run(scheme, func(t *testing.T) {
			everyNix(t, func(t *testing.T, n *far) {
				drv, input := n.instantiate(`echo hello; for i in 1 2 3; do echo $i; done; echo there > $out; echo d > $dev`)
				h := n.hook(scheme + "://localhost?remote-store=" + n.there + " " + testenv.System() + " - 1 1 far")
				conf := "substituters =\nbuild-users-group =\nexperimental-features = nix-command\ntrusted-users = *\n"
				for _, name := range []string{"sandbox", "sandbox-paths", "system-features"} {
					conf += name + " = " + h.Settings[name] + "\n"
				}
				must(t, os.WriteFile(n.Path("conf", "nix.conf"), []byte(conf), 0o644))
				var l listener
				running := try(t, pool(t, h), n.request(&l, drv, input), Accepted)
				if err := running.Wait(t.Context()); err != nil {
					t.Fatalf("%v\n%q", err, l.messages)
				}
				n.nix("nix-store", "--check-validity", n.nix("nix-store", "--query", "--binding", "out", drv))
				if !strings.Contains(l.log.String(), "hello\n1\n2\n3\n") {
					t.Errorf("the log is %q, the messages %q", l.log.String(), l.messages)
				}
			})
		})
	}
}

func TestRealNixFails(t *testing.T) {
	everyNix(t, func(t *testing.T, n *far) {
		drv, input := n.instantiate(`echo no luck; exit 3`)
		var l listener
		running := try(t, pool(t, n.hook(n.machine())), n.request(&l, drv, input), Accepted)
		err := running.Wait(t.Context())
		var exit *ExitError
		if !errors.As(err, &exit) || exit.Code != 1 || !strings.Contains(err.Error(), "exit code 3") {
			t.Errorf("it ended with %v", err)
		}
		if l.log.String() != "no luck\n" {
			t.Errorf("the log is %q", l.log.String())
		}
	})
}

func TestRealNixNoMachines(t *testing.T) {
	everyNix(t, func(t *testing.T, n *far) {
		p := pool(t, n.hook(""))
		for range 2 {
			try(t, p, n.request(&listener{}, "/nix/store/g1w7hy3qg1w7hy3qg1w7hy3qg1w7hy3q-a.drv"), DeclinedForGood)
		}
	})
}

// TestRealNixNoConnection has a machine that cannot be reached. What the program
// that connects says about it must come through.
func TestRealNixNoConnection(t *testing.T) {
	everyNix(t, func(t *testing.T, n *far) {
		drv, input := n.instantiate(`:`)
		bin := n.Mkdir("bin")
		must(t, os.WriteFile(filepath.Join(bin, "ssh"), []byte("#!/bin/sh\necho nobody is there >&2\nexit 255\n"), 0o755))
		h := n.hook("ssh://far.away " + testenv.System() + " - 1 1 far")
		h.Env = append(h.Env, "PATH="+bin+":"+os.Getenv("PATH"))
		var l listener
		try(t, pool(t, h), n.request(&l, drv, input), Declined)
		if text := strings.Join(l.messages, "\n"); !strings.Contains(text, "nobody is there") {
			t.Errorf("it says %q", text)
		}
	})
}

// TestRealNixBusy has one build wait for another, and ends that.
func TestRealNixBusy(t *testing.T) {
	everyNix(t, func(t *testing.T, n *far) {
		drv, input := n.instantiate(`echo started; read line < /dev/zero`)
		p := pool(t, n.hook(n.machine()))
		started := &signalling{c: make(chan struct{})}
		r := n.request(&listener{}, drv, input)
		r.Log = started
		running := try(t, p, r, Accepted)
		ctx, cancel := context.WithCancelCause(t.Context())
		enough := errors.New("enough")
		begun := started.c
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			<-begun
			cancel(enough)
		}()
		try(t, p, n.request(&listener{}, drv, input), Postponed)
		willing := n.request(&listener{}, drv, input)
		willing.Willing = true
		try(t, p, willing, Declined)
		if err := running.Wait(ctx); !errors.Is(err, enough) {
			t.Errorf("it ended with %v", err)
		}
		<-ended
		running = try(t, p, n.request(&listener{}, drv, input), Accepted)
		cancel(enough)
		running.Wait(ctx)
	})
}

// signalling is written to, once.
type signalling struct {
	c    chan struct{}
	once sync.Once
}

func (s *signalling) Write(p []byte) (int, error) {
	s.once.Do(func() { close(s.c) })
	return len(p), nil
}
