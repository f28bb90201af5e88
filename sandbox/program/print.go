package program

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/kilnbuild/kiln/sandbox/launcher"
)

// String prints the program as strace would, one call a line, with what it is
// for after it.
func (p *Program) String() string {
	var b strings.Builder
	for i, in := range p.Instructions {
		fmt.Fprintf(&b, "%s(", in.Call.Name)
		for n, a := range in.Args {
			if n > 0 {
				b.WriteString(", ")
			}
			b.WriteString(a.print())
		}
		b.WriteString(")")
		if p.uses(Ref(i)) {
			fmt.Fprintf(&b, " = $%d", i)
		}
		switch {
		case in.AnyError:
			b.WriteString(" || true")
		case in.Tolerate != 0:
			fmt.Fprintf(&b, " || errno == %d", int(in.Tolerate))
		case in.Check:
			fmt.Fprintf(&b, " == %d", in.Want)
		}
		if in.Skip > 0 {
			fmt.Fprintf(&b, " || skip %d", in.Skip)
		}
		if in.What != "" {
			fmt.Fprintf(&b, "  # %s", in.What)
		}
		b.WriteByte('\n')
	}
	return b.String()
}

func (p *Program) uses(r Ref) bool {
	for _, in := range p.Instructions {
		for _, a := range in.Args {
			if a.kind == argResult && Ref(a.number) == r {
				return true
			}
		}
	}
	return false
}

func (a Arg) print() string {
	switch a.kind {
	case argString:
		return strconv.Quote(a.text)
	case argStrings:
		quoted := make([]string, len(a.more.list))
		for i, s := range a.more.list {
			quoted[i] = strconv.Quote(s)
		}
		return "[" + strings.Join(quoted, ", ") + "]"
	case argBytes, argShared:
		return a.text
	case argResult:
		return "$" + strconv.FormatUint(a.number, 10)
	case argSlot:
		switch a.number {
		case launcher.SlotGo:
			return "GO"
		case launcher.SlotReady:
			return "READY"
		case launcher.SlotError:
			return "ERROR"
		case launcher.SlotLauncher:
			return "LAUNCHER"
		}
		return "FD" + strconv.FormatUint(a.number, 10)
	}
	if a.text != "" {
		return a.text
	}
	return strconv.FormatInt(int64(a.number), 10)
}
