package program

import "golang.org/x/sys/unix"

// Begin appends what every program begins with. From its first call on the
// process dies with the launcher; it waits until the launcher has done its part,
// which may be to map its ids.
func (p *Program) Begin() {
	p.DieWithLauncher()
	_, in := p.Add("wait for the launcher", Call{"read", unix.SYS_READ}, GoFD, Bytes(make([]byte, 8), "buf"), Number(1))
	in.Check, in.Want = true, 1
}

// DieWithLauncher appends what has the process killed when the launcher's thread
// ends. Every change of ids or capabilities takes that back, so it is needed
// again after them. A launcher that is dead already sends nothing any more, which
// is why that is looked at.
func (p *Program) DieWithLauncher() {
	p.Add("die with the launcher", Call{"prctl", unix.SYS_PRCTL},
		Named(uint(unix.PR_SET_PDEATHSIG), "PR_SET_PDEATHSIG"), Named(uint(unix.SIGKILL), "SIGKILL"))
	_, in := p.Add("check that the launcher is alive", Call{"epoll_pwait", unix.SYS_EPOLL_PWAIT},
		LauncherFD, Bytes(make([]byte, 16), "events"), Number(1), Number(0), Null, Number(8))
	in.Check, in.Want = true, 0
}
