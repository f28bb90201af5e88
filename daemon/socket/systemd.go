package socket

import (
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// firstActivated is the first descriptor that systemd passes on.
const firstActivated = 3

// maxActivated bounds how many sockets are taken over.
const maxActivated = 64

// Activated gives the sockets that systemd, or another program that does as it does,
// has opened for this process: none if it has not. It is to be called once, before
// descriptors are opened. The caller closes them. (sd_listen_fds(3).)
func Activated() ([]net.Listener, error) {
	pid, fds := os.Getenv("LISTEN_PID"), os.Getenv("LISTEN_FDS")
	for _, name := range []string{"LISTEN_PID", "LISTEN_FDS", "LISTEN_FDNAMES"} {
		os.Unsetenv(name)
	}
	if pid == "" || pid != strconv.Itoa(os.Getpid()) {
		return nil, nil
	}
	n, err := strconv.Atoi(fds)
	if err != nil || n < 0 || n > maxActivated {
		return nil, fmt.Errorf("take over sockets: LISTEN_FDS is %q", fds)
	}
	var all []net.Listener
	for fd := firstActivated; fd < firstActivated+n; fd++ {
		syscall.CloseOnExec(fd)
		f := os.NewFile(uintptr(fd), "socket "+strconv.Itoa(fd))
		l, err := net.FileListener(f)
		if err = errors.Join(err, f.Close()); err == nil {
			if u, ok := l.(*net.UnixListener); ok {
				u.SetUnlinkOnClose(false) // it is systemd's
				all = append(all, l)
				continue
			}
			l.Close()
			err = errors.New("it is no socket in the file system")
		}
		for _, l := range all {
			l.Close()
		}
		return nil, fmt.Errorf("take over socket %d: %w", fd, err)
	}
	return all, nil
}

// Notify tells the service manager about this process, if there is one that listens:
// in words of the form NAME=VALUE. (sd_notify(3).)
func Notify(words ...string) error {
	address := os.Getenv("NOTIFY_SOCKET")
	if address == "" {
		return nil
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: address, Net: "unixgram"})
	if err != nil {
		return fmt.Errorf("notify the service manager: %w", err)
	}
	defer conn.Close()
	if _, err := conn.Write([]byte(strings.Join(words, "\n"))); err != nil {
		return fmt.Errorf("notify the service manager: %w", err)
	}
	return nil
}
