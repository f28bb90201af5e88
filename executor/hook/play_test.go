package hook

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/kilnbuild/kiln/nix/logline"
)

// play is a build hook that gives one reply after the other, and writes down what
// it was told in the file that RECORD names. Its exit code is the last word.
func play(words []string) int {
	in := toldReader{bufio.NewReader(os.Stdin)}
	record, err := os.OpenFile(os.Getenv("RECORD"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return 99
	}
	fmt.Fprintf(record, "args %q\n", os.Args[1:])
	for in.int() == 1 {
		fmt.Fprintf(record, "setting %q\n", []string{in.string(), in.string()})
	}
	for i, reply := range words {
		if in.string() != "try" {
			fmt.Fprintln(record, "end")
			return 0
		}
		fmt.Fprintf(record, "try %d %q %q %q\n", in.int(), in.string(), in.string(), in.strings())
		fmt.Fprintf(os.Stderr, "thinking\n%s", logline.Message{Action: logline.Msg, Level: logline.Info, Text: "thought"}.Append(nil))
		fmt.Fprintf(os.Stderr, "# %s\n", reply)
		if reply == "accept" {
			fmt.Fprintf(os.Stderr, "%sssh://far.away\n", logline.Message{Action: logline.Stop, ID: 7}.Append(nil))
			fmt.Fprintf(record, "inputs %q\noutputs %q\n", in.strings(), in.strings())
			if _, err := in.ReadByte(); err != io.EOF {
				fmt.Fprintf(record, "%v\n", err)
			}
			return build(words[i+1])
		}
	}
	return 98
}

func build(code string) (n int) {
	log := os.NewFile(4, "log")
	fmt.Fprintln(log, "by descriptor")
	again := os.NewFile(5, "log, again")
	again.Close()
	log.Close()
	for _, m := range []logline.Message{
		{Action: logline.Start, ID: 1, Type: logline.Build, Text: "there"},
		{Action: logline.Result, ID: 1, Result: logline.PhaseSet, Fields: []logline.Field{logline.Text("unpack")}},
		{Action: logline.Result, ID: 1, Result: logline.BuildLogLine, Fields: []logline.Field{logline.Text("by message")}},
		{Action: logline.Stop, ID: 1},
		{Action: logline.Msg, Level: logline.Error, Text: "error: at the end"},
	} {
		os.Stderr.Write(m.Append(nil))
	}
	fmt.Println("to standard output")
	fmt.Sscan(code, &n)
	return n
}

// A toldReader reads what a build hook is told. At the end, all is 0 and empty.
type toldReader struct{ *bufio.Reader }

func (r toldReader) int() uint64 {
	var b [8]byte
	io.ReadFull(r, b[:])
	return binary.LittleEndian.Uint64(b[:])
}

func (r toldReader) string() string {
	n := r.int()
	b := make([]byte, (n+7)/8*8)
	io.ReadFull(r, b)
	if strings.Trim(string(b[n:]), "\x00") != "" {
		return "bad padding"
	}
	return string(b[:n])
}

func (r toldReader) strings() []string {
	set := make([]string, r.int())
	for i := range set {
		set[i] = r.string()
	}
	return set
}
