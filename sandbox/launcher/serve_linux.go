package launcher

import (
	"runtime"
	"syscall"
	"unsafe"
)

func init() {
	if !isLauncher() {
		return
	}
	serve()
	exit(0)
}

// isLauncher tells whether the process was started as the launcher. Package os
// knows the arguments, but is not there yet.
func isLauncher() bool {
	fd, err := syscall.Open("/proc/self/cmdline", syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	var buf [len(Argv0) + 1]byte
	n, _ := syscall.Read(fd, buf[:])
	syscall.Close(fd)
	return n == len(buf) && string(buf[:len(Argv0)]) == Argv0 && buf[len(Argv0)] == 0
}

func exit(code int) {
	for {
		syscall.RawSyscall(syscall.SYS_EXIT_GROUP, uintptr(code), 0, 0)
	}
}

const (
	maxDescriptors  = 16 // in a request
	sysCloseRange   = 436
	closeRangeExec  = 1 << 2
	clonePIDFD      = 0x1000
	msgCmsgCloexec  = 0x40000000
	sigBlock        = 0
	sigSetmask      = 2
	sizeofSignalSet = 8
	sysPidfdOpen    = 434
)

// dead is the descriptor of SlotLauncher.
var dead int

// watchOurselves opens dead.
func watchOurselves() (ok bool) {
	self, _, errno := syscall.RawSyscall(sysPidfdOpen, uintptr(syscall.Getpid()), 0, 0)
	if errno != 0 {
		return false
	}
	epoll, err := syscall.EpollCreate1(syscall.EPOLL_CLOEXEC)
	if err != nil {
		return false
	}
	dead = epoll
	return syscall.EpollCtl(epoll, syscall.EPOLL_CTL_ADD, int(self), &syscall.EpollEvent{Events: syscall.EPOLLIN}) == nil
}

// ignoreSignals leaves it to the client when the launcher ends: service managers
// and shells send these to every process of a service or job.
func ignoreSignals() {
	const ignore = 1                     // SIG_IGN
	action := [4]uint64{ignore, 0, 0, 0} // struct sigaction as the kernel has it
	for _, s := range []syscall.Signal{syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM} {
		syscall.RawSyscall6(syscall.SYS_RT_SIGACTION, uintptr(s), uintptr(unsafe.Pointer(&action)), 0, sizeofSignalSet, 0, 0)
	}
}

// job is a request with its descriptors, for a worker.
type job struct {
	request Request
	fds     []int
}

// serve carries out requests until the client is gone.
func serve() {
	// What was open when we were started must not be open in builders, and their
	// supplementary groups are none. Both fail only where they do not matter.
	syscall.RawSyscall(sysCloseRange, 0, ^uintptr(0), closeRangeExec)
	syscall.Setgroups(nil)
	ignoreSignals()
	if !watchOurselves() {
		return
	}
	groups <- nil

	idle := make(chan chan job, 1024)
	for {
		j, ok := receive()
		if !ok {
			killGroups()
			return
		}
		var worker chan job
		select {
		case worker = <-idle:
		default:
			worker = make(chan job)
			go work(worker, idle)
		}
		worker <- j
	}
}

// receive takes the next request. It gives false when the client is gone, or
// talks nonsense.
func receive() (j job, ok bool) {
	oob := make([]byte, syscall.CmsgSpace(maxDescriptors*4))
	for {
		n, oobn, flags, _, err := syscall.Recvmsg(Socket, j.request.Bytes(), oob, msgCmsgCloexec)
		if err == syscall.EINTR {
			continue
		}
		if err != nil || n != int(unsafe.Sizeof(j.request)) || flags&(syscall.MSG_TRUNC|syscall.MSG_CTRUNC) != 0 || j.request.Magic != Magic {
			return j, false
		}
		messages, err := syscall.ParseSocketControlMessage(oob[:oobn])
		if err != nil || len(messages) != 1 {
			return j, false
		}
		j.fds, err = syscall.ParseUnixRights(&messages[0])
		return j, err == nil && len(j.fds) > 0
	}
}

// work launches what it is given, one after the other, on one thread.
func work(jobs chan job, idle chan chan job) {
	runtime.LockOSThread()
	for {
		j := <-jobs
		carryOut(&j)
		select {
		case idle <- jobs:
		default:
			return // more threads than will be needed soon
		}
	}
}

func send(r *Reply, fds ...int) {
	r.Magic = Magic
	var rights []byte
	if len(fds) > 0 {
		rights = syscall.UnixRights(fds...)
	}
	for {
		err := syscall.Sendmsg(Socket, r.Bytes(), rights, nil, 0)
		if err == syscall.EINTR {
			continue
		}
		if err != nil {
			exit(1) // nobody is there to tell
		}
		return
	}
}

func closeAll(fds []int) {
	for _, fd := range fds {
		syscall.Close(fd)
	}
}

// carryOut makes one launch and waits for the end of what it launched.
func carryOut(j *job) {
	q := &j.request
	if q.Size == 0 || q.Size > MaxProgramSize {
		closeAll(j.fds)
		send(q.refuse(StageRequest, syscall.EINVAL))
		return
	}
	mem, err := syscall.Mmap(j.fds[0], 0, int(q.Size), syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_PRIVATE)
	if err != nil {
		closeAll(j.fds)
		send(q.refuse(StageProgram, err))
		return
	}
	c := child{q: q}
	failed := c.start(mem, j.fds)
	syscall.Munmap(mem)
	closeAll(j.fds)
	if failed != nil {
		send(failed)
		return
	}
	c.finish()
}

// refuse is the answer to a request that could not be carried out.
func (q *Request) refuse(stage uint64, err error) *Reply {
	errno, _ := err.(syscall.Errno)
	return &Reply{ID: q.ID, Kind: Refused, Index: stage, Errno: uint64(errno)}
}

// child is a clone under way.
type child struct {
	q          *Request
	pid        int
	pidfd      int
	goRead     int
	goWrite    int
	readyRead  int
	readyWrite int
	errRead    int
	errWrite   int
}

// start clones and does the launcher's part of the set-up up to the moment at
// which the child goes its own way. It gives the answer to the request if that
// is over with it, nil otherwise.
func (c *child) start(mem []byte, fds []int) *Reply {
	var pipes [6]int
	for i := 0; i < len(pipes); i += 2 {
		if err := syscall.Pipe2(pipes[i:i+2], syscall.O_CLOEXEC); err != nil {
			closeAll(pipes[:i])
			return c.q.refuse(StagePipe, err)
		}
	}
	c.goRead, c.goWrite, c.readyRead, c.readyWrite, c.errRead, c.errWrite = pipes[0], pipes[1], pipes[2], pipes[3], pipes[4], pipes[5]

	records, ok := link(mem, func(slot uint64) (uint64, bool) {
		switch {
		case slot == SlotGo:
			return uint64(c.goRead), true
		case slot == SlotReady:
			return uint64(c.readyWrite), true
		case slot == SlotError:
			return uint64(c.errWrite), true
		case slot == SlotLauncher:
			return uint64(dead), true
		case slot < uint64(len(fds)-1):
			return uint64(fds[slot+1]), true
		}
		return 0, false
	})
	if !ok {
		closeAll(pipes[:])
		return c.q.refuse(StageProgram, syscall.EINVAL)
	}

	// The kernel writes the descriptor into the program's memory, which does not
	// move as a goroutine's stack may.
	pidfd := (*int32)(unsafe.Pointer(&mem[0]))
	args := cloneArgs{
		flags:      c.q.CloneFlags | clonePIDFD | cloneClearSighand,
		pidfd:      uint64(uintptr(unsafe.Pointer(pidfd))),
		exitSignal: uint64(syscall.SIGCHLD),
	}
	all, old := ^uint64(0), uint64(0)
	syscall.RawSyscall6(syscall.SYS_RT_SIGPROCMASK, sigBlock, uintptr(unsafe.Pointer(&all)), uintptr(unsafe.Pointer(&old)), sizeofSignalSet, 0, 0)
	pid, errno := launch(&args, &records[0], uintptr(len(records)), uintptr(c.errWrite))
	syscall.RawSyscall6(syscall.SYS_RT_SIGPROCMASK, sigSetmask, uintptr(unsafe.Pointer(&old)), 0, sizeofSignalSet, 0, 0)
	c.pidfd = int(*pidfd)
	closeAll([]int{c.goRead, c.readyWrite, c.errWrite})
	if errno != 0 {
		closeAll([]int{c.goWrite, c.readyRead, c.errRead})
		return c.q.refuse(StageClone, errno)
	}
	c.pid = int(pid)
	if c.q.KillGroup != 0 {
		addGroup(c.pid)
	}
	if c.q.MapIDs != 0 {
		if err := c.mapIDs(); err != nil {
			return c.abandon(StageIDMap, err)
		}
	}
	c.release()
	return nil
}

// release lets the child go on. It may be gone already: then the error pipe has
// more to say than this one. (SIGPIPE is ignored on a descriptor of ours, since
// the Go runtime only heeds it on standard output and error.)
func (c *child) release() { syscall.Write(c.goWrite, []byte{1}) }

// abandon ends a child that must not go on, and gives the answer to the request.
// If the child itself has failed before, that is the reason for the rest.
func (c *child) abandon(stage uint64, err error) *Reply {
	syscall.Kill(c.pid, syscall.SIGKILL)
	c.end(nil)
	// What it wrote is there; other children may have the other end open still.
	syscall.SetNonblock(c.errRead, true)
	failed, ok := c.failure()
	closeAll([]int{c.goWrite, c.readyRead, c.errRead, c.pidfd})
	if ok {
		return failed
	}
	return c.q.refuse(stage, err)
}

// failure reads from the child which call has failed. There is none if the other
// end was closed by its exec.
func (c *child) failure() (r *Reply, ok bool) {
	var f failure
	n, _ := readFull(c.errRead, unsafe.Slice((*byte)(unsafe.Pointer(&f)), unsafe.Sizeof(f)))
	return &Reply{ID: c.q.ID, Kind: Failed, Index: f.index, Errno: f.errno}, n == int(unsafe.Sizeof(f))
}

// groups has the process groups that are to be killed when the client is gone,
// whose members but the first get no signal when the launcher ends. Whoever takes
// the list out of the channel gives it back.
var groups = make(chan []int, 1)

func addGroup(pid int) { groups <- append(<-groups, pid) }

// removeGroup forgets a group. Its first process must not have been reaped yet.
func removeGroup(pid int) {
	list := <-groups
	for i, other := range list {
		if other == pid {
			list[i] = list[len(list)-1]
			list = list[:len(list)-1]
			break
		}
	}
	groups <- list
}

// killGroups kills all groups. No more can be added or forgotten afterwards.
func killGroups() {
	for _, pid := range <-groups {
		syscall.Kill(-pid, syscall.SIGKILL)
	}
}

// end waits for the child's end, and ends what is left of its group.
func (c *child) end(usage *syscall.Rusage) (status syscall.WaitStatus) {
	if c.q.KillGroup != 0 {
		// While the child is not reaped nobody else can have its number.
		c.awaitEnd()
		syscall.Kill(-c.pid, syscall.SIGKILL)
		removeGroup(c.pid)
	}
	for {
		_, err := syscall.Wait4(c.pid, &status, 0, usage)
		if err != syscall.EINTR {
			return status
		}
	}
}

// awaitEnd waits for the child's end and leaves it to be reaped.
func (c *child) awaitEnd() {
	const (
		pPID    = 1
		wExited = 4
		wNoWait = 0x1000000
	)
	var info [128]byte // siginfo_t
	for {
		_, _, errno := syscall.Syscall6(syscall.SYS_WAITID, pPID, uintptr(c.pid), uintptr(unsafe.Pointer(&info)), wExited|wNoWait, 0, 0)
		if errno != syscall.EINTR {
			return
		}
	}
}

// finish hears how the set-up went, tells the client, and waits for the end.
func (c *child) finish() {
	namespaces := []int(nil)
	if c.q.Siblings != 0 {
		var b [1]byte
		if n, _ := readFull(c.readyRead, b[:]); n == 1 {
			fds, err := c.openNamespaces()
			if err != nil {
				send(c.abandon(StageNamespaces, err))
				return
			}
			namespaces = fds
			c.release()
		}
	}
	if c.q.Successor != 0 {
		var pid int32
		if n, _ := readFull(c.readyRead, unsafe.Slice((*byte)(unsafe.Pointer(&pid)), unsafe.Sizeof(pid))); n == int(unsafe.Sizeof(pid)) {
			if err := c.succeed(int(pid)); err != nil {
				send(c.abandon(StageSuccessor, err))
				return
			}
		}
	}
	failed, ok := c.failure()
	closeAll([]int{c.goWrite, c.readyRead, c.errRead})
	if ok {
		c.end(nil)
		closeAll(append(namespaces, c.pidfd))
		send(failed)
		return
	}
	send(&Reply{ID: c.q.ID, Kind: Started, PID: uint64(c.pid)}, append([]int{c.pidfd}, namespaces...)...)
	closeAll(append(namespaces, c.pidfd))

	var usage syscall.Rusage
	status := c.end(&usage)
	send(&Reply{
		ID: c.q.ID, Kind: Exited, PID: uint64(c.pid), Status: uint64(status),
		UserNS: uint64(usage.Utime.Nano()), SysNS: uint64(usage.Stime.Nano()), MaxRSS: uint64(usage.Maxrss),
	})
}

// succeed puts the successor that the child has made in the place of the child, which
// ends now. It is our child as well (CLONE_PARENT), so nobody else can have its number.
func (c *child) succeed(pid int) error {
	c.end(nil)
	syscall.Close(c.pidfd)
	c.pid, c.pidfd = pid, -1
	fd, _, errno := syscall.RawSyscall(sysPidfdOpen, uintptr(pid), 0, 0)
	if errno != 0 {
		return errno
	}
	c.pidfd = int(fd)
	return nil
}

func readFull(fd int, p []byte) (n int, err error) {
	for n < len(p) {
		m, err := syscall.Read(fd, p[n:])
		if err == syscall.EINTR {
			continue
		}
		if m <= 0 || err != nil {
			return n, err
		}
		n += m
	}
	return n, nil
}

// mapIDs writes the child's id maps. An ordinary user may map one group only
// after giving up setgroups (user_namespaces(7)).
func (c *child) mapIDs() error {
	dir := "/proc/" + decimal(uint64(c.pid))
	if err := writeFile(dir+"/uid_map", mapLine(c.q.UIDMap)); err != nil {
		return err
	}
	if c.q.KeepGroups == 0 {
		if err := writeFile(dir+"/setgroups", "deny"); err != nil && err != syscall.ENOENT {
			return err
		}
	}
	return writeFile(dir+"/gid_map", mapLine(c.q.GIDMap))
}

func mapLine(m [3]uint64) string {
	return decimal(m[0]) + " " + decimal(m[1]) + " " + decimal(m[2]) + "\n"
}

func writeFile(name, text string) error {
	fd, err := syscall.Open(name, syscall.O_WRONLY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	_, err = syscall.Write(fd, []byte(text))
	syscall.Close(fd)
	return err
}

func (c *child) openNamespaces() ([]int, error) {
	dir := "/proc/" + decimal(uint64(c.pid)) + "/ns/"
	mnt, err := syscall.Open(dir+"mnt", syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	user, err := syscall.Open(dir+"user", syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
	if err != nil {
		syscall.Close(mnt)
		return nil, err
	}
	return []int{mnt, user}, nil
}

func decimal(n uint64) string {
	var buf [20]byte
	i := len(buf)
	for {
		i--
		buf[i] = byte('0' + n%10)
		if n /= 10; n == 0 {
			return string(buf[i:])
		}
	}
}
