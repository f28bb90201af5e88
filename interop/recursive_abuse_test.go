//go:build linux

package interop

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/kilnbuild/kiln/internal/testenv"
)

// A pest is a builder that misuses the socket. It is this program, if the variable
// "pest" is set, which says how. In the end it makes its output.
func init() {
	kind := os.Getenv("pest")
	if kind == "" {
		return
	}
	if err := annoy(kind); err != nil {
		fmt.Fprintln(os.Stderr, "pest:", err)
		os.Exit(9)
	}
	if err := os.WriteFile(os.Getenv("out"), nil, 0o644); err != nil {
		os.Exit(9)
	}
	os.Exit(0)
}

func annoy(kind string) error {
	socket := strings.TrimPrefix(os.Getenv("NIX_REMOTE"), "unix://")
	number := func(numbers ...uint64) (b []byte) {
		for _, n := range numbers {
			b = binary.LittleEndian.AppendUint64(b, n)
		}
		return b
	}
	text := func(s string) []byte {
		return append(append(number(uint64(len(s))), s...), make([]byte, -len(s)&7)...)
	}
	const isValidPath = 1
	// An old client: it has least to say to begin with.
	hello := number(0x6e697863, 1<<8|21, 0, 0)
	send := func(data []byte, then func(net.Conn) error) error {
		conn, err := net.Dial("unix", socket)
		if err != nil {
			return err
		}
		// The other side may have closed it before it has read everything.
		conn.Write(data)
		return then(conn)
	}
	ended := func(conn net.Conn) error {
		conn.SetReadDeadline(time.Now().Add(20 * time.Second))
		if _, err := io.Copy(io.Discard, conn); errors.Is(err, os.ErrDeadlineExceeded) {
			return fmt.Errorf("the connection stays open")
		}
		return conn.Close()
	}
	left := func(net.Conn) error { return nil }
	// works has a real client ask something.
	works := func() error {
		out, err := exec.Command("/usr/bin/nix-store", "--check-validity", os.Getenv("dep")).CombinedOutput()
		if err != nil {
			return fmt.Errorf("a client fails: %w: %s", err, out)
		}
		return nil
	}
	var err error
	switch kind {
	case "garbage":
		err = send(bytes.Repeat([]byte("nothing of the kind "), 50_000), ended)
	case "half a message":
		err = send(hello[:12], left)
	case "half a request":
		err = send(append(hello, number(isValidPath, 40)...), left)
	case "huge length":
		err = send(append(hello, number(isValidPath, 1<<60)...), ended)
	case "outside":
		err = send(slices.Concat(hello, number(isValidPath), text("/etc/passwd")), func(conn net.Conn) error {
			conn.(*net.UnixConn).CloseWrite()
			return ended(conn)
		})
	case "many", "many left":
		var conns []net.Conn
		for range 200 {
			if err := send(nil, func(c net.Conn) error { conns = append(conns, c); return nil }); err != nil {
				return err
			}
		}
		if kind == "many left" {
			return nil
		}
		for _, conn := range conns {
			conn.Close()
		}
	case "socket deleted":
		if err := works(); err != nil {
			return err
		}
		return os.Remove(socket)
	case "socket replaced":
		if err := os.Remove(socket); err != nil {
			return err
		}
		return os.Symlink("/etc/passwd", socket)
	case "writes to its end":
		for range 4 {
			go send(hello, func(conn net.Conn) error {
				for {
					if _, err := conn.Write(bytes.Repeat(slices.Concat(number(isValidPath), text(os.Getenv("dep"))), 100)); err != nil {
						return err
					}
				}
			})
		}
		time.Sleep(200 * time.Millisecond)
		return nil
	}
	return errors.Join(err, works())
}

// TestRecursivePests misuses the socket in many ways: the build goes on, and so do
// others in the same kiln.
func TestRecursivePests(t *testing.T) {
	c := newCaller(t, testenv.NixVersion(t), "/")
	program, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	pest := c.scene.Path("pest")
	if err := os.WriteFile(pest, program, 0o755); err != nil {
		t.Fatal(err)
	}
	var drvs []string
	for _, kind := range []string{"garbage", "half a message", "half a request", "huge length", "outside", "many", "many left", "socket deleted", "socket replaced", "writes to its end"} {
		drvs = append(drvs, c.instantiate(fmt.Sprintf(`derivation {
			name = "pest-%s"; inherit system; builder = "/bin/pest"; requiredSystemFeatures = [ "recursive-nix" ]; pest = "%s";
			dep = script "dep" { } "echo dep > $out"; }`, strings.ReplaceAll(kind, " ", "-"), kind)))
	}
	o := c.build(map[string]string{"sandbox-paths": c.paths + " /bin/pest=" + pest, "keep-going": "true", "timeout": "60"}, []string{"-L"}, drvs...)
	if o.exit != 0 {
		t.Errorf("exit %d:\n%s", o.exit, o.stderr)
	}
	c.clean()
}

// TestRecursivePlantedFiles puts files where an object is going to be: it must not
// appear anywhere else, and what the links lead to must stay as it was.
func TestRecursivePlantedFiles(t *testing.T) {
	c := newCaller(t, testenv.NixVersion(t), "/")
	file := c.scene.Path("added")
	if err := os.WriteFile(file, []byte("the text\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	object := must(t, sceneCommand(c.scene, "nix-store", "--store", c.scene.Path("elsewhere"), "--add", file))[0]
	for kind, plant := range map[string]string{
		"link":         "ln -s $TMPDIR/victim $object",
		"link-to-dir":  "ln -s $TMPDIR/victims $object",
		"link-to-dep":  "ln -s $dep $object",
		"link-to-root": "ln -s / $object",
		"dangling":     "ln -s $TMPDIR/nothing $object",
		"directory":    "mkdir $object; echo mine > $object/file",
		"file":         "echo mine > $object",
	} {
		drv := c.instantiate(outer("planted-"+kind, `dep = script "dep" { } "echo dep > $out"; object = "`+object+`"; outputs = [ "out" ];`, `
			mkdir victims; echo victim > victim; echo victim > victims/file
			`+plant+`
			echo "the text" > added
			if nix-store --add added; then echo "it is added"; test "$(cat $object)" = "the text"; else echo "it is refused"; fi
			test "$(cat victim)$(cat victims/file)$(cat $dep)" = victimvictimdep
			test ! -e nothing
			test $(ls victims | wc -l) = 1
			echo x > $out
		`))
		o := c.build(nil, []string{"-L"}, drv)
		if o.exit != 0 {
			t.Errorf("%s: exit %d:\n%s", kind, o.exit, o.stderr)
		} else if !strings.Contains(o.stderr, "it is refused") && !strings.Contains(o.stderr, "it is added") {
			t.Errorf("%s: nothing is said:\n%s", kind, o.stderr)
		}
		if strings.Contains(o.stderr, c.scene.Mark()) {
			t.Errorf("%s: the builder is told where the store is on the machine:\n%s", kind, o.stderr)
		}
		o = c.build(nil, []string{"-L"}, c.instantiate(outer("after-"+kind, `object = "`+object+`";`, `
			echo "the text" > added; nix-store --add added; test "$(cat $object)" = "the text"; echo x > $out
		`)))
		if o.exit != 0 {
			t.Errorf("after %s: exit %d:\n%s", kind, o.exit, o.stderr)
		}
	}
	c.clean()
}

// TestRecursiveForgedDerivation adds a derivation that claims the path of another
// one's output.
func TestRecursiveForgedDerivation(t *testing.T) {
	c := newCaller(t, testenv.NixVersion(t), "/")
	stranger := c.instantiate(`script "victim" { } "echo honest > $out"`)
	victim := derivationOutputs(t, c.kiln.store+stranger)[0]
	drv := c.instantiate(outer("outer", `
		victim = "`+victim+`"; forged = `+nixText(inner("victim", "", "echo forged > $out"))+`;`, `
		honest=$(nix-instantiate -E "$forged")
		out1=$(nix-store -q --outputs $honest)
		test $out1 != $victim
		sed "s,$out1,$victim,g" $honest > text
		if nix-instantiate --eval --read-write-mode -E 'builtins.toFile "victim.drv" (builtins.readFile ./text)' > said 2>&1; then
			echo "a forged derivation was added"; exit 1
		fi
		grep "has incorrect output '$victim'" said
		test ! -e $victim
		make "$forged"
		echo x > $out
	`))
	if o := c.build(nil, []string{"-L"}, drv); o.exit != 0 {
		t.Errorf("exit %d:\n%s", o.exit, o.stderr)
	}
	if exists(c.kiln.store + victim) {
		t.Errorf("%s was made", victim)
	}
	c.clean()
}

// TestT28KillRecursive kills the client that waits for a nested build, and kiln in the
// middle of one: the nested builder is gone with the first, and everything with the
// second. The next build works.
func TestT28KillRecursive(t *testing.T) {
	c := newCaller(t, testenv.NixVersion(t), "/")
	shared := c.share()
	options := map[string]string{"sandbox-paths": c.paths + " /shared=@shared@"}
	slow := inner("slow", "", "echo > /shared/started; while ! test -e /shared/go; do sleep 0.05; done; echo x > $out")
	started := func() bool { return exists(filepath.Join(shared, "started")) }

	drv := c.instantiate(outer("killed-client", "slow = "+nixText(slow)+"; quick = "+nixText(inner("quick", "", "echo x > $out"))+";", `
		drv=$(nix-instantiate -E "$slow")
		nix-store -r $drv & client=$!
		while ! test -e /shared/started; do sleep 0.05; done
		kill -9 $client
		wait $client || true
		make "$quick"
		echo x > $out
	`))
	// With one slot, the quick one is built only when the slow one has ended.
	o := c.build(map[string]string{"sandbox-paths": options["sandbox-paths"], "max-jobs": "1", "timeout": "60"}, []string{"-L"}, drv)
	if o.exit != 0 || !started() {
		t.Errorf("exit %d:\n%s", o.exit, o.stderr)
	}
	c.clean()

	drv = c.instantiate(outer("killed-kiln", "slow = "+nixText(slow)+";", `out1=$(make "$slow"); echo $out1 > $out`))
	for round := range 4 {
		if err := os.Remove(filepath.Join(shared, "started")); err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		cmd := c.command(options, nil, drv)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		for end := time.Now().Add(30 * time.Second); !started() && time.Now().Before(end); {
			time.Sleep(5 * time.Millisecond)
		}
		if !started() {
			t.Errorf("round %d: the nested build does not start", round)
		}
		cmd.Process.Kill()
		cmd.Wait()
		testenv.NoProcesses(t, c.scene.Mark())
		testenv.NoMounts(t, c.scene.Mark())
	}
	if err := os.Remove(filepath.Join(shared, "started")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(shared, "go"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if o := c.build(options, nil, drv); o.exit != 0 {
		t.Errorf("the next build: exit %d:\n%s", o.exit, o.stderr)
	}
	c.clean()
}
