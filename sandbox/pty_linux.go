package sandbox

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// PTY is a pseudo-terminal through which a program's output is read.
type PTY struct {
	// Master is read; it gives an error (EIO) when nobody has the slave open any
	// more. It takes deadlines.
	Master *os.File
	Slave  *os.File // nil after CloseSlave
}

// OpenPTY makes a pseudo-terminal that the user uid may open again. The slave is in raw
// mode: bytes come as they were written. The caller closes it.
func OpenPTY(uid int) (*PTY, error) {
	p, err := OpenTerminal(uid)
	if err != nil {
		return nil, err
	}
	if err := makeRaw(int(p.Slave.Fd())); err != nil {
		p.Close()
		return nil, fmt.Errorf("set pseudo-terminal to raw mode: %w", err)
	}
	return p, nil
}

// OpenTerminal makes a pseudo-terminal like OpenPTY, but one for a person: what is typed
// is shown, lines can be edited, and some keys send signals.
func OpenTerminal(uid int) (_ *PTY, err error) {
	fd, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open pseudo-terminal: %w (is /dev/pts mounted?)", err)
	}
	p := &PTY{Master: os.NewFile(uintptr(fd), "/dev/ptmx")}
	defer func() {
		if err != nil {
			p.Close()
		}
	}()
	if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
		return nil, fmt.Errorf("unlock pseudo-terminal: %w", err)
	}
	const flags = unix.O_RDWR | unix.O_NOCTTY | unix.O_CLOEXEC
	slave, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.TIOCGPTPEER, flags)
	if errno != 0 {
		return nil, fmt.Errorf("open pseudo-terminal: %w", errno)
	}
	p.Slave = os.NewFile(slave, "pty")
	if err := unix.Fchmod(int(slave), 0o600); err != nil {
		return nil, fmt.Errorf("protect pseudo-terminal: %w", err)
	}
	if uid != os.Geteuid() {
		if err := unix.Fchown(int(slave), uid, -1); err != nil {
			return nil, fmt.Errorf("give pseudo-terminal to user %d: %w", uid, err)
		}
	}
	return p, nil
}

// makeRaw turns off everything that a terminal does to what passes through it.
func makeRaw(fd int) error {
	t, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return err
	}
	t.Iflag &^= unix.IGNBRK | unix.BRKINT | unix.PARMRK | unix.ISTRIP | unix.INLCR | unix.IGNCR | unix.ICRNL | unix.IXON
	t.Oflag &^= unix.OPOST
	t.Lflag &^= unix.ECHO | unix.ECHONL | unix.ICANON | unix.ISIG | unix.IEXTEN
	t.Cflag = t.Cflag&^(unix.CSIZE|unix.PARENB) | unix.CS8
	t.Cc[unix.VMIN], t.Cc[unix.VTIME] = 1, 0
	return unix.IoctlSetTermios(fd, unix.TCSETS, t)
}

// Resize says how large the screen is. Who has the terminal for his own is sent SIGWINCH.
func (p *PTY) Resize(columns, rows uint16) error {
	conn, err := p.Master.SyscallConn()
	if err != nil {
		return fmt.Errorf("set the size of pseudo-terminal: %w", err)
	}
	var serr error
	if err := conn.Control(func(fd uintptr) {
		serr = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Col: columns, Row: rows})
	}); err != nil {
		serr = err
	}
	if serr != nil {
		return fmt.Errorf("set the size of pseudo-terminal: %w", serr)
	}
	return nil
}

// CloseSlave closes the slave, so that the program's end of it is the last one.
func (p *PTY) CloseSlave() {
	if p.Slave != nil {
		p.Slave.Close()
		p.Slave = nil
	}
}

// Close closes both ends.
func (p *PTY) Close() {
	p.CloseSlave()
	p.Master.Close()
}
