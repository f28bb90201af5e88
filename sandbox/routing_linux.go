package sandbox

import (
	"encoding/binary"
	"fmt"

	"github.com/kilnbuild/kiln/sandbox/program"
	"golang.org/x/sys/unix"
)

// hasRules asks the kernel for its rules of policy routing in a family: only one
// that has them knows the question.
func hasRules(family uint8) bool {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	header := make([]byte, sizeofRuleHeader)
	header[0] = family
	if _, err := unix.Write(fd, netlink(unix.RTM_GETRULE, unix.NLM_F_REQUEST|unix.NLM_F_DUMP, header)); err != nil {
		return false
	}
	var answer [4096]byte
	n, err := unix.Read(fd, answer[:])
	return err == nil && n >= unix.SizeofNlMsghdr && binary.NativeEndian.Uint16(answer[4:]) == unix.RTM_NEWRULE
}

// netlink is a message to the kernel.
func netlink(kind, flags uint16, body []byte) []byte {
	m := binary.NativeEndian.AppendUint32(nil, uint32(unix.SizeofNlMsghdr+len(body)))
	m = binary.NativeEndian.AppendUint16(m, kind)
	m = binary.NativeEndian.AppendUint16(m, flags)
	m = append(m, make([]byte, 8)...) // sequence number and sender
	return append(m, body...)
}

// attribute appends an attribute of a message. The length of its value is a
// multiple of 4.
func attribute(body []byte, kind uint16, value []byte) []byte {
	body = binary.NativeEndian.AppendUint16(body, uint16(unix.SizeofNlAttr+len(value)))
	body = binary.NativeEndian.AppendUint16(body, kind)
	return append(body, value...)
}

// struct fib_rule_hdr, of which these are the bytes that are not 0.
const (
	ruleFamily       = 0
	ruleBits         = 1
	ruleTable        = 4
	ruleAction       = 7
	sizeofRuleHeader = 12
)

// message asks the kernel to keep to the rule that comes as the number-th after
// those for the namespace's own addresses, before all routes. print says it as
// ip-rule(8) does.
func (r netRule) message(number int) (message []byte, print string) {
	print = fmt.Sprintf("{RTM_NEWRULE %d: to %s", number, r.to)
	body := make([]byte, sizeofRuleHeader)
	body[ruleFamily], body[ruleBits] = unix.AF_INET, uint8(r.to.Bits())
	if r.to.Addr().Is6() {
		body[ruleFamily] = unix.AF_INET6
	}
	body = attribute(body, unix.FRA_DST, r.to.Addr().AsSlice())
	body = attribute(body, unix.FRA_PRIORITY, binary.NativeEndian.AppendUint32(nil, uint32(number)))
	if r.port != 0 {
		first := binary.NativeEndian.AppendUint16(nil, r.port)
		body = attribute(body, unix.FRA_DPORT_RANGE, binary.NativeEndian.AppendUint16(first, r.port))
		print += fmt.Sprintf(" dport %d", r.port)
	}
	if r.reach {
		body[ruleTable], body[ruleAction] = unix.RT_TABLE_MAIN, unix.FR_ACT_TO_TBL
		print += " lookup main}"
	} else {
		body[ruleAction] = unix.FR_ACT_UNREACHABLE
		print += " unreachable}"
	}
	return netlink(unix.RTM_NEWRULE, unix.NLM_F_REQUEST|unix.NLM_F_ACK|unix.NLM_F_CREATE|unix.NLM_F_EXCL, body), print
}

// keepOut makes some destinations unreachable in a network namespace that has its
// way out, whatever routes came with that. Rules hold for link-local addresses with
// an interface too, for which routes to nowhere would not be asked.
func (c *compiler) keepOut(n UserNetwork) {
	const what = "keep the machine's loopback and link-local addresses out of reach"
	// An answer that says that all is well has an error number, which is 0, and the
	// header of what it answers to. One that does not has all of that.
	const answer = unix.SizeofNlMsghdr + unix.SizeofNlMsgerr
	sock, _ := c.p.Add(what, call("socket", unix.SYS_SOCKET), program.Named(uint(unix.AF_NETLINK), "AF_NETLINK"),
		program.Named(uint(unix.SOCK_RAW|unix.SOCK_CLOEXEC), "SOCK_RAW|SOCK_CLOEXEC"), program.Named(uint(unix.NETLINK_ROUTE), "NETLINK_ROUTE"))
	for i, rule := range n.rules() {
		if rule.to.Addr().Is6() && !c.f.IPv6 {
			continue
		}
		message, print := rule.message(i + 1)
		c.p.Add(what, call("write", unix.SYS_WRITE), program.Result(sock), program.Bytes(message, print), program.Number(len(message)))
		_, in := c.p.Add(what, call("read", unix.SYS_READ), program.Result(sock), program.Bytes(make([]byte, 256), "answer"), program.Number(256))
		in.Check, in.Want = true, answer
	}
	c.p.Add("", call("close", unix.SYS_CLOSE), program.Result(sock))
}
