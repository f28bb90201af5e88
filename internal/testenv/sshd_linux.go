package testenv

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A SSHD is a real ssh server on this machine that lets its user in.
type SSHD struct {
	User string
	Port int
	Key  string // a file with the private key that lets the user in
	// KnownHosts is a file with the server's own key, as ssh wants it.
	KnownHosts string
	// Options are the words for ssh that make it use these files and no others; they go
	// into NIX_SSHOPTS. Shared are words beside them that spare it a login, which takes
	// much longer than all the rest: a connection that is open for that is used.
	Options, Shared string
}

// Authority is where the server is, as store URIs have it.
func (s *SSHD) Authority() string { return fmt.Sprintf("%s@127.0.0.1:%d", s.User, s.Port) }

// StartSSHD starts a ssh server with its files in a scene, until the test ends. The test is
// skipped where there is none, and where the user cannot log in.
//
// Logins find programs in the scene's directory "bin" before any others, and have the
// scene's home: what a shell does at a login may take seconds.
func StartSSHD(t testing.TB, scene *Scene) *SSHD {
	t.Helper()
	sshd, err := exec.LookPath("sshd")
	if err != nil {
		sshd = "/usr/sbin/sshd"
	}
	for _, p := range []string{sshd, "ssh", "ssh-keygen"} {
		if _, err := exec.LookPath(p); err != nil {
			SkipTool(t, "no %s; install it with: apt-get install openssh-server openssh-client", filepath.Base(p))
		}
	}
	me, err := user.Current()
	if err != nil || me.Username == "" {
		t.Skip("ssh needs a user with an account")
	}
	for _, key := range []string{"host", "client"} {
		if out, err := exec.Command("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", scene.Path(key)).CombinedOutput(); err != nil {
			t.Fatalf("ssh-keygen: %v\n%s", err, out)
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := l.Addr().(*net.TCPAddr).Port
	l.Close()
	s := &SSHD{User: me.Username, Port: port, Key: scene.Path("client"), KnownHosts: scene.Path("known")}
	s.Options = "-F none -o BatchMode=yes -o UserKnownHostsFile=" + s.KnownHosts
	public := make(map[string][]byte)
	for _, key := range []string{"host", "client"} {
		if public[key], err = os.ReadFile(scene.Path(key + ".pub")); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range map[string]string{
		"authorized": string(public["client"]),
		"known":      fmt.Sprintf("[127.0.0.1]:%d %s", port, public["host"]),
		"sshd_config": fmt.Sprintf("Port %d\nListenAddress 127.0.0.1\nHostKey %s\nAuthorizedKeysFile %s\nPidFile none\nStrictModes no\nUsePAM no\nPasswordAuthentication no\nPermitRootLogin yes\nSetEnv PATH=%s HOME=%s\n",
			port, scene.Path("host"), scene.Path("authorized"), scene.Path("bin")+":"+os.Getenv("PATH"), scene.Path("home")),
	} {
		if err := os.WriteFile(scene.Path(name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if Root() {
		os.MkdirAll("/run/sshd", 0o755)
	}
	cmd := exec.Command(sshd, "-D", "-e", "-f", scene.Path("sshd_config"))
	var said strings.Builder
	cmd.Stderr = &said
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		cmd.Wait()
		if t.Failed() {
			t.Logf("sshd said:\n%s", said.String())
		}
	})
	for range 500 {
		if c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port)); err == nil {
			c.Close()
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	shared := scene.Path("shared")
	s.Shared = "-o ControlPath=" + shared
	login := append([]string{"-i", s.Key, "-p", fmt.Sprint(port)}, strings.Fields(s.Options)...)
	master := exec.Command("ssh", append(login, "-M", "-N", "-o", "ControlPath="+shared, s.User+"@127.0.0.1")...)
	var refused strings.Builder
	master.Stderr = &refused
	master.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := master.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- master.Wait() }()
	t.Cleanup(func() {
		master.Process.Signal(syscall.SIGTERM)
		<-ended
	})
	for {
		if _, err := os.Stat(shared); err == nil {
			return s
		}
		select {
		case err := <-ended:
			ended <- err
			if Root() {
				t.Fatalf("log in: %v: %s", err, refused.String())
			}
			t.Skipf("this user cannot log in: %v: %s", err, refused.String())
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// Program writes a script that runs a program as it runs in the scene, whatever the
// environment of a login is: what env has besides, and the words that the script is given
// behind those of the program. It gives the script's name.
func (s *SSHD) Program(t testing.TB, scene *Scene, name string, env []string, words ...string) string {
	t.Helper()
	var script strings.Builder
	script.WriteString("#!/bin/sh\n")
	for _, kv := range append(scene.Env(), env...) {
		name, value, _ := strings.Cut(kv, "=")
		if strings.HasPrefix(name, "NIX_") || name == "HOME" || name == "TMPDIR" || name == "PATH" {
			fmt.Fprintf(&script, "export %s='%s'\n", name, value)
		}
	}
	fmt.Fprintf(&script, "exec %s \"$@\"\n", strings.Join(words, " "))
	if err := os.WriteFile(scene.Path(name), []byte(script.String()), 0o755); err != nil {
		t.Fatal(err)
	}
	return scene.Path(name)
}
