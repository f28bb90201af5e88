package remote

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"
)

// SSHOptions say which program is started on which machine.
type SSHOptions struct {
	// Authority is "[user@]host[:port]", as conf.StoreURI has it. For "localhost" the
	// program is started without ssh, as Nix does it.
	Authority string
	Key       string // a file with a private key; "" for what ssh is configured to use
	HostKey   string // the host's public key, in base64; "" for those that ssh knows
	Compress  bool
	Options   []string // further words for ssh
	// RemoteProgram is the program and its first words, and RemoteArgs what follows.
	RemoteProgram, RemoteArgs []string
	// Errors takes what ssh and the program say; it may be nil. What is said while a
	// connection is made or broken is in its error all the same.
	Errors io.Writer
}

// SSH gives a Dial that starts a program by ssh and speaks to its input and output.
func SSH(o SSHOptions) func(context.Context) (io.ReadWriteCloser, error) {
	return func(context.Context) (io.ReadWriteCloser, error) {
		conn, err := o.start()
		if err != nil {
			return nil, fmt.Errorf("start ssh: %w", err)
		}
		return conn, nil
	}
}

func (o SSHOptions) start() (*sshConn, error) {
	c := &sshConn{said: tail{also: o.Errors}}
	words, err := o.words(c)
	if err != nil {
		return nil, errors.Join(err, c.forget())
	}
	c.cmd = exec.Command(words[0], words[1:]...)
	c.cmd.Stderr = &c.said
	c.cmd.WaitDelay = grace // for whatever else has its standard error open
	if c.in, err = c.cmd.StdinPipe(); err == nil {
		c.out, err = c.cmd.StdoutPipe()
	}
	if err == nil {
		err = c.cmd.Start()
	}
	if err != nil {
		return nil, errors.Join(err, c.forget())
	}
	return c, nil
}

// words are the words of the command line.
func (o SSHOptions) words(c *sshConn) ([]string, error) {
	u, err := url.Parse("ssh://" + o.Authority)
	if err != nil || u.Hostname() == "" {
		return nil, fmt.Errorf("'%s' is not [user@]host[:port]", o.Authority)
	}
	program := append(append([]string(nil), o.RemoteProgram...), o.RemoteArgs...)
	if o.Authority == "localhost" {
		return program, nil
	}
	words := []string{"ssh", "-x", "-a"}
	if o.Key != "" {
		words = append(words, "-i", o.Key)
	}
	if p := u.Port(); p != "" {
		words = append(words, "-p", p)
	}
	if o.HostKey != "" {
		if err := c.remember(u.Hostname(), u.Port(), o.HostKey); err != nil {
			return nil, err
		}
		words = append(words, "-oUserKnownHostsFile="+c.knownHosts)
	}
	if o.Compress {
		words = append(words, "-C")
	}
	words = append(words, o.Options...)
	host := u.Hostname()
	if u.User != nil {
		host = u.User.Username() + "@" + host
	}
	words = append(words, "--", host)
	// ssh joins its words with spaces, and a shell reads that.
	for _, w := range program {
		words = append(words, quote(w))
	}
	return words, nil
}

// quote makes a word that a shell reads as s.
func quote(s string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_./:=@%+,", r)
	}
	if s != "" && strings.IndexFunc(s, func(r rune) bool { return !plain(r) }) < 0 {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

// An sshConn is the input and output of a program.
type sshConn struct {
	cmd        *exec.Cmd
	in         io.WriteCloser
	out        io.ReadCloser
	said       tail
	knownHosts string // a file of its own, "" for none

	close sync.Once
}

func (c *sshConn) Read(p []byte) (int, error)  { return c.out.Read(p) }
func (c *sshConn) Write(p []byte) (int, error) { return c.in.Write(p) }

// SyscallConn lets whoever wants to know see whether there is something to read.
func (c *sshConn) SyscallConn() (syscall.RawConn, error) {
	f, ok := c.out.(*os.File)
	if !ok {
		return nil, errors.ErrUnsupported
	}
	return f.SyscallConn()
}

// grace is how long a program has to end after its input ended.
const grace = time.Second

// Close ends the program and waits for that.
func (c *sshConn) Close() error {
	c.close.Do(func() {
		c.in.Close()
		c.out.Close()
		kill := time.AfterFunc(grace, func() { c.cmd.Process.Kill() })
		c.cmd.Wait() // what it has to say has been said
		kill.Stop()
		c.forget()
	})
	return nil
}

// explain adds to an error what the program said before it ended by itself.
func (c *sshConn) explain(err error) error {
	// What broke the connection is that the program ended, or it was told to.
	c.Close()
	if said := c.said.String(); said != "" {
		return fmt.Errorf("%w\n%s", err, said)
	}
	return err
}

// remember writes down the key of a host.
func (c *sshConn) remember(host, port, key string) error {
	text, err := base64.StdEncoding.DecodeString(key)
	if err != nil {
		return fmt.Errorf("read the host's public key: %w", err)
	}
	f, err := os.CreateTemp("", "kiln-known-hosts-")
	if err != nil {
		return err
	}
	c.knownHosts = f.Name()
	if port != "" && port != "22" {
		host = "[" + host + "]:" + port
	}
	_, err = fmt.Fprintf(f, "%s %s\n", host, bytes.TrimSpace(text))
	return errors.Join(err, f.Close())
}

func (c *sshConn) forget() error {
	if c.knownHosts == "" {
		return nil
	}
	return os.Remove(c.knownHosts)
}

// A tail keeps the end of what is written to it.
type tail struct {
	also io.Writer

	mu   sync.Mutex
	kept []byte
}

const tailSize = 2 << 10 // bytes

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	t.kept = append(t.kept, p[max(0, len(p)-tailSize):]...)
	t.kept = t.kept[max(0, len(t.kept)-tailSize):]
	t.mu.Unlock()
	if t.also != nil {
		t.also.Write(p)
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.TrimSpace(string(t.kept))
}
