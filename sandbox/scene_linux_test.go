package sandbox

import (
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/kilnbuild/kiln/internal/testenv"
	"golang.org/x/sys/unix"
)

// scene is a machine of a test's own as far as networks go: a network namespace
// with an interface to the outside, and servers on every address that matters.
type scene struct {
	// Targets, as the role "reaches" takes them.
	Outside  []string // what the network leads to
	Loopback []string // on the machine's loopback interface
	Metadata []string // link-local and such
	Abstract string
}

// What a test that is run again learns: that it is in a namespace for a scene, or
// the scene that it is in.
const (
	stageVar = "KILN_TEST_STAGE"
	sceneVar = "KILN_TEST_SCENE"
)

// inScene runs a test in a scene, once for each way in which the device of
// interfaces may be there: for root only, and for everybody. Then an ordinary user
// has his turn. Only root can make a scene: others look at what the probe says.
func inScene(t *testing.T, f func(t *testing.T, s *scene)) {
	t.Helper()
	testenv.Sandbox(t)
	if text := os.Getenv(sceneVar); text != "" {
		s := &scene{}
		must(t, json.Unmarshal([]byte(text), s))
		f(t, s)
		return
	}
	if !testenv.Root() {
		n, err := tryProgram(t, newLauncher(t), "")
		checkProbe(t, n, err)
		t.Skipf("only root can make a scene; what the probe found here is %v, %v", n, err)
	}
	for _, name := range []string{"ip", string(Pasta), string(Slirp4netns)} {
		if _, err := exec.LookPath(name); err != nil {
			testenv.SkipSandbox(t, "%v; install it with: apt-get install iproute2 passt slirp4netns", err)
		}
	}
	if os.Getenv(stageVar) == "" {
		cmd := exec.Command("/proc/self/exe", "-test.v=true", "-test.run=^"+t.Name()+"$")
		cmd.Env = append(os.Environ(), stageVar+"=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, Unshareflags: unix.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
		out, err := cmd.CombinedOutput()
		t.Logf("in a namespace:\n%s", out)
		if err != nil {
			t.Fatalf("in a namespace: %v", err)
		}
		return
	}
	s := makeScene(t)
	text, err := json.Marshal(s)
	must(t, err)
	t.Setenv(sceneVar, string(text))
	if anyoneMayOpen(tunDevice) {
		putDevice(t, 0o600)
	}
	t.Run("device of root", func(t *testing.T) { f(t, s) })
	putDevice(t, 0o666)
	t.Run("device of everybody", func(t *testing.T) { f(t, s) })
	if !t.Failed() {
		testenv.AsOrdinaryUser(t)
	}
}

// checkProbe holds that the probe gives a network, or a reason.
func checkProbe(t *testing.T, n UserNetwork, err error) {
	t.Helper()
	if err == nil {
		if n.Stack == "" || !filepath.IsAbs(n.Program) {
			t.Errorf("the probe gives %+v", n)
		}
		return
	}
	for _, reason := range []string{"neither pasta nor slirp4netns is in PATH", "open /dev/net/tun: ", "create a user namespace: ", " ended with exit code "} {
		if strings.HasPrefix(err.Error(), "no user-mode network: ") && strings.Contains(err.Error(), reason) {
			return
		}
	}
	t.Errorf("the probe gives none of the reasons that there are: %v", err)
}

func makeScene(t *testing.T) *scene {
	t.Helper()
	for _, words := range []string{
		"link set lo up", "link add out type veth peer name far", "link set far up",
		"addr add 203.0.113.1/24 dev out", "addr add 169.254.169.254/32 dev out",
		"addr add 2001:db8:1::1/64 dev out nodad", "addr add fd00:ec2::254/128 dev out nodad", "addr add fe80::9/64 dev out nodad",
		"link set out up",
		"route add default via 203.0.113.254 dev out", "route add default via 2001:db8:1::fe dev out",
	} {
		if out, err := exec.Command("ip", strings.Fields(words)...).CombinedOutput(); err != nil {
			t.Fatalf("ip %s: %v: %s", words, err, out)
		}
	}
	s := &scene{Abstract: serve(t, "unix", "@kiln-scene-"+strconv.Itoa(os.Getpid()))}
	for _, network := range []string{"tcp", "udp"} {
		s.Outside = append(s.Outside, serve(t, network, "203.0.113.1:0"), serve(t, network, "[2001:db8:1::1]:0"))
		s.Loopback = append(s.Loopback, serve(t, network, "127.0.0.1:0"), serve(t, network, "127.0.0.53:0"), serve(t, network, "[::1]:0"))
		s.Metadata = append(s.Metadata, serve(t, network, "169.254.169.254:0"), serve(t, network, "[fd00:ec2::254]:0"), serve(t, network, "[fe80::9%out]:0"))
	}
	file := filepath.Join(t.TempDir(), "resolv.conf")
	must(t, os.WriteFile(file, []byte(machineResolvConf), 0o644))
	must(t, unix.Mount(file, "/etc/resolv.conf", "", unix.MS_BIND, ""))
	t.Cleanup(func() { unix.Unmount("/etc/resolv.conf", unix.MNT_DETACH) })
	answerNames(t, "127.0.0.53:53")
	return s
}

// machineResolvConf is a scene's resolv.conf.
const machineResolvConf = "nameserver 127.0.0.53\n"

// serve answers whoever connects or sends something, and gives itself as a target.
func serve(t *testing.T, network, addr string) string {
	t.Helper()
	done := make(chan struct{})
	if network == "udp" {
		c, err := net.ListenPacket(network, addr)
		must(t, err)
		go func() {
			defer close(done)
			for buf := make([]byte, 512); ; {
				_, from, err := c.ReadFrom(buf)
				if err != nil {
					return
				}
				c.WriteTo([]byte("hello"), from)
			}
		}()
		t.Cleanup(func() { c.Close(); <-done })
		return target(network, c.LocalAddr())
	}
	l, err := net.Listen(network, addr)
	must(t, err)
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			fmt.Fprint(c, "hello")
			c.Close()
		}
	}()
	t.Cleanup(func() { l.Close(); <-done })
	return target(network, l.Addr())
}

func target(network string, addr net.Addr) string { return network + " " + addr.String() }

// elsewhere is the target's port on another address.
func elsewhere(target, addr string) string {
	network, old, _ := strings.Cut(target, " ")
	port := netip.MustParseAddrPort(old).Port()
	return network + " " + netip.AddrPortFrom(netip.MustParseAddr(addr), port).String()
}

// resolved is what answerNames says of every name.
const resolved = "203.0.113.77"

// answerNames is a name server with one answer to everything.
func answerNames(t *testing.T, addr string) {
	t.Helper()
	c, err := net.ListenPacket("udp", addr)
	must(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for buf := make([]byte, 512); ; {
			n, from, err := c.ReadFrom(buf)
			if err != nil {
				return
			}
			if a := answerTo(buf[:n]); a != nil {
				c.WriteTo(a, from)
			}
		}
	}()
	t.Cleanup(func() { c.Close(); <-done })
}

// answerTo is the answer to a question of the domain name system.
func answerTo(q []byte) []byte {
	end := 12
	for end < len(q) && q[end] != 0 {
		end += int(q[end]) + 1
	}
	end += 5
	if end > len(q) {
		return nil
	}
	a := append([]byte(nil), q[:end]...)
	copy(a[2:], []byte{0x81, 0x80, 0, 1, 0, 0, 0, 0, 0, 0}) // one question, no answer
	if q[end-3] == 1 {                                      // it asks for an IPv4 address
		a[7] = 1
		a = append(a, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4)
		ip := netip.MustParseAddr(resolved).As4()
		a = append(a, ip[:]...)
	}
	return a
}

// putDevice puts a device of the given mode in the place of the machine's, in the
// scene.
func putDevice(t *testing.T, mode uint32) {
	t.Helper()
	dir := t.TempDir()
	must(t, unix.Mount("tmpfs", dir, "tmpfs", 0, "mode=0755"))
	tun := filepath.Join(dir, "tun")
	must(t, unix.Mknod(tun, unix.S_IFCHR|mode, int(unix.Mkdev(10, 200))))
	must(t, os.Chmod(tun, os.FileMode(mode)))
	must(t, unix.Mount(tun, tunDevice, "", unix.MS_BIND, ""))
	must(t, unix.Unmount(dir, unix.MNT_DETACH))
	t.Cleanup(func() { unix.Unmount(tunDevice, unix.MNT_DETACH) })
}
