package socket

import (
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// answers tells whether somebody listens at a path.
func answers(t *testing.T, path string) bool {
	t.Helper()
	conn, err := Dial(t.Context(), path)
	if err != nil {
		return false
	}
	conn.Close()
	return true
}

func listenAt(t *testing.T, path string) net.Listener {
	t.Helper()
	l, err := Listen(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

func TestListen(t *testing.T) {
	dir := t.TempDir()
	for name, path := range map[string]string{
		"short": filepath.Join(dir, "a", "b", "socket"),
		"long":  filepath.Join(dir, strings.Repeat("long/", 40), "socket"),
	} {
		t.Run(name, func(t *testing.T) {
			l := listenAt(t, path)
			info, err := os.Lstat(path)
			if err != nil || info.Mode()&os.ModeSocket == 0 || info.Mode().Perm() != 0o666 {
				t.Fatalf("socket: %v, %v", info, err)
			}
			if !answers(t, path) {
				t.Error("nobody answers")
			}
			if _, err := Listen(t.Context(), path); !errors.Is(err, ErrInUse) {
				t.Errorf("a second one: %v", err)
			}
			l.Close()
			if left, _ := os.ReadDir(filepath.Dir(path)); len(left) > 0 {
				t.Errorf("left: %v", left)
			}
		})
	}
}

func TestListenWhereSomethingIs(t *testing.T) {
	path := filepath.Join(t.TempDir(), "socket")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(t.Context(), path); err == nil || !strings.Contains(err.Error(), "no socket") {
		t.Errorf("in the place of a file: %v", err)
	}
	if _, err := Listen(t.Context(), "socket"); err == nil {
		t.Error("at a relative path")
	}
	os.Remove(path)
	// That of a dead daemon.
	dead, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	dead.SetUnlinkOnClose(false)
	dead.Close()
	first := listenAt(t, path)
	if !answers(t, path) {
		t.Error("nobody answers")
	}
	// Whoever has the place by then keeps it.
	os.Remove(path)
	listenAt(t, path)
	first.Close()
	if !answers(t, path) {
		t.Error("the first one took the second one's socket away")
	}
}

func TestPeerOf(t *testing.T) {
	path := filepath.Join(t.TempDir(), "socket")
	l := listenAt(t, path)
	client, err := Dial(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	server, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	p, err := PeerOf(server)
	if errors.Is(err, errors.ErrUnsupported) {
		t.Skip(err)
	}
	if want := (Peer{os.Getpid(), uint32(os.Getuid()), uint32(os.Getgid())}); err != nil || p != want {
		t.Errorf("%+v, %v, want %+v", p, err, want)
	}
	if _, err := PeerOf(&net.TCPConn{}); err == nil {
		t.Error("of a connection of another kind")
	}
}

// activated is set for the test's binary when it is to be a program that systemd has
// started.
const activated = "KILN_TEST_ACTIVATED"

// standardRole is set for the test's binary when it is to serve its standard input and output.
const standardRole = "KILN_TEST_STANDARD"

// serveStandard is told a word, and then closes the connection while it reads from it and
// writes to it.
func serveStandard() int {
	c := Standard()
	word := make([]byte, 4)
	if _, err := io.ReadFull(c, word); err != nil {
		return 1
	}
	ended := make(chan error, 2)
	go func() {
		_, err := c.Read(word)
		ended <- err
	}()
	go func() {
		for {
			if _, err := c.Write(make([]byte, 1<<16)); err != nil {
				ended <- err
				return
			}
		}
	}()
	time.Sleep(100 * time.Millisecond)
	c.Close()
	for range 2 {
		select {
		case err := <-ended:
			if err == nil {
				return 2
			}
		case <-time.After(5 * time.Second):
			return 3
		}
	}
	return 0
}

// TestStandard closes standard input and output of which nobody makes an end.
func TestStandard(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("it is only so on Linux")
	}
	for _, kind := range []string{"pipes", "socket"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			cmd := exec.Command("/proc/self/exe")
			cmd.Env = append(os.Environ(), standardRole+"=yes")
			var in io.WriteCloser
			if kind == "pipes" {
				var err error
				if in, err = cmd.StdinPipe(); err != nil {
					t.Fatal(err)
				}
				if _, err = cmd.StdoutPipe(); err != nil {
					t.Fatal(err)
				}
			} else {
				fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM, 0)
				if err != nil {
					t.Fatal(err)
				}
				syscall.CloseOnExec(fds[0])
				syscall.CloseOnExec(fds[1])
				theirs := os.NewFile(uintptr(fds[0]), "theirs")
				defer theirs.Close()
				cmd.Stdin, cmd.Stdout = theirs, theirs
				in = os.NewFile(uintptr(fds[1]), "ours")
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			io.WriteString(in, "word")
			if err := cmd.Wait(); err != nil {
				t.Errorf("it ended with: %v", err)
			}
			in.Close()
		})
	}
}

func TestMain(m *testing.M) {
	if os.Getenv(standardRole) != "" {
		os.Exit(serveStandard())
	}
	if os.Getenv(activated) != "" {
		os.Setenv("LISTEN_PID", "1")
		if os.Getenv(activated) == "this" {
			os.Setenv("LISTEN_PID", strconv.Itoa(os.Getpid()))
		}
		all, err := Activated()
		if err != nil {
			os.Stdout.WriteString("error: " + err.Error())
			os.Exit(0)
		}
		for _, l := range all {
			os.Stdout.WriteString(l.Addr().String() + " ")
		}
		os.Stdout.WriteString(os.Getenv("LISTEN_FDS"))
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func TestActivated(t *testing.T) {
	path := filepath.Join(t.TempDir(), "socket")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	f, err := l.File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	plain, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer plain.Close()
	for _, tt := range []struct {
		whose, n string
		file     *os.File
		want     string
	}{
		{"this", "1", f, path + " "},
		{"other", "1", f, ""},
		{"this", "0", f, ""},
		{"this", "x", f, `error: take over sockets: LISTEN_FDS is "x"`},
		{"this", "100000", f, `error: take over sockets: LISTEN_FDS is "100000"`},
		{"this", "1", plain, "error: take over socket 3: "},
	} {
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), activated+"="+tt.whose, "LISTEN_FDS="+tt.n)
		cmd.ExtraFiles = []*os.File{tt.file}
		out, err := cmd.Output()
		if errors.Is(err, syscall.ENOENT) {
			t.Skip("there is no /proc")
		}
		if err != nil || !strings.HasPrefix(string(out), tt.want) || tt.want == "" && len(out) > 0 {
			t.Errorf("%s, %s: %q, %v, want %q", tt.whose, tt.n, out, err, tt.want)
		}
	}
}

func TestNotify(t *testing.T) {
	path := filepath.Join(t.TempDir(), "notify")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	t.Setenv("NOTIFY_SOCKET", path)
	if err := Notify("READY=1", "STATUS=well"); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 100)
	n, err := l.Read(got)
	if err != nil || string(got[:n]) != "READY=1\nSTATUS=well" {
		t.Errorf("%q, %v", got[:n], err)
	}
	if words := Reloading(); words[0] != "RELOADING=1" {
		t.Errorf("reloading: %q", words)
	}
	t.Setenv("NOTIFY_SOCKET", path+"-not-there")
	if err := Notify("READY=1"); err == nil {
		t.Error("nobody listens")
	}
	t.Setenv("NOTIFY_SOCKET", "")
	if err := Notify("READY=1"); err != nil {
		t.Error(err)
	}
}
