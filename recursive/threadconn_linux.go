package recursive

import "golang.org/x/sys/unix"

// duplicate gives another descriptor of a socket, whose calls wait in the kernel. So do
// those of the first one from then on.
func duplicate(socket int) (int, error) {
	own, err := unix.FcntlInt(uintptr(socket), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	if err := unix.SetNonblock(own, false); err != nil {
		unix.Close(own)
		return -1, err
	}
	return own, nil
}

// hangUp ends a connection in both directions. One that has ended already is no error.
func hangUp(socket int) { _ = unix.Shutdown(socket, unix.SHUT_RDWR) }
