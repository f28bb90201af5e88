package program

import (
	"strings"
	"testing"
	"unsafe"

	"github.com/google/go-cmp/cmp"
	"github.com/kilnbuild/kiln/sandbox/launcher"
)

func sample() *Program {
	p := &Program{}
	fd, _ := p.Add("open it", Call{"open", 2}, String("/x \"y\""), Named(uint(1), "O_WRONLY"))
	_, in := p.Add("read from it", Call{"read", 0}, Result(fd), Bytes(make([]byte, 3), "buf"), Number(3))
	in.Check, in.Want = true, 3
	_, in = p.Add("", Call{"close", 3}, Result(fd))
	in.Tolerate = 9
	_, in = p.Add("tell the launcher", Call{"write", 1}, ReadyFD, Number(-1))
	in.AnyError = true
	p.Add("become it", Call{"execve", 59}, String("/bin/x"), Strings([]string{"x", "a b"}), Strings(nil))
	buf := Shared(make([]byte, 8), "pid")
	_, in = p.Add("make another", Call{"clone", 56}, buf)
	in.Skip = 1
	p.Add("tell", Call{"write", 1}, buf)
	p.Add("filter", Call{"seccomp", 317}, Struct(make([]byte, 16), 8, Bytes([]byte{1, 2}, ""), "{2 bytes}"), Descriptor(1), Null)
	return p
}

func TestString(t *testing.T) {
	want := `open("/x \"y\"", O_WRONLY) = $0  # open it
read($0, buf, 3) == 3  # read from it
close($0) || errno == 9
write(READY, -1) || true  # tell the launcher
execve("/bin/x", ["x", "a b"], [])  # become it
clone(pid) || skip 1  # make another
write(pid)  # tell
seccomp({2 bytes}, FD1, NULL)  # filter
`
	if diff := cmp.Diff(want, sample().String()); diff != "" {
		t.Error(diff)
	}
}

// TestEncode reads the encoded program as the launcher does.
func TestEncode(t *testing.T) {
	code, err := sample().Encode()
	if err != nil {
		t.Fatal(err)
	}
	h := (*launcher.Header)(unsafe.Pointer(&code[0]))
	if h.Magic != launcher.Magic || h.Count != 8 {
		t.Fatalf("header %+v", h)
	}
	records := unsafe.Slice((*launcher.Record)(unsafe.Pointer(&code[unsafe.Sizeof(*h)])), h.Count)
	arena := code[len(code)-int(h.ArenaSize):]
	text := func(at uint64) string { s, _, _ := strings.Cut(string(arena[at:]), "\x00"); return s }

	if r := records[0]; r.Number != 2 || r.Kinds != launcher.KindArena || text(r.Args[0]) != `/x "y"` || r.Args[1] != 1 {
		t.Errorf("open is %+v", r)
	}
	if r := records[1]; r.Kinds&0xff != launcher.KindResult || r.Args[0] != 0 || r.Check != 1 || r.Want != 3 {
		t.Errorf("read is %+v", r)
	}
	if records[2].Tolerate != 9 || records[3].Tolerate != launcher.AnyError {
		t.Errorf("errors are tolerated as %d and %d", records[2].Tolerate, records[3].Tolerate)
	}
	if r := records[3]; r.Kinds&0xff != launcher.KindSlot || r.Args[0] != launcher.SlotReady || r.Args[1] != ^uint64(0) {
		t.Errorf("write is %+v", r)
	}
	if records[5].Skip != 1 || records[5].Args[0] != records[6].Args[0] {
		t.Errorf("clone is %+v, and what comes after it %+v", records[5], records[6])
	}
	argv := unsafe.Slice((*uint64)(unsafe.Pointer(&arena[records[4].Args[1]])), 3)
	if text(argv[0]) != "x" || text(argv[1]) != "a b" || argv[2] != 0 {
		t.Errorf("argv is %v", argv)
	}
	if h.RelocCount != 3 { // two words of argv, one pointer in a struct
		t.Errorf("%d relocations, want 3", h.RelocCount)
	}
}

func TestEncodeRefuses(t *testing.T) {
	for name, p := range map[string]*Program{
		"nothing":               {},
		"a result to come":      {Instructions: []Instruction{{Call: Call{"close", 3}, Args: []Arg{Result(0)}}}},
		"skipping all":          {Instructions: []Instruction{{Call: Call{"clone", 56}, Skip: 1}, {Call: Call{"close", 3}}}},
		"seven arguments":       {Instructions: []Instruction{{Call: Call{"x", 1}, Args: make([]Arg, 7)}}},
		"too many instructions": {Instructions: make([]Instruction, launcher.MaxRecords+1)},
	} {
		if _, err := p.Encode(); err == nil {
			t.Errorf("%s was encoded", name)
		}
	}
}
