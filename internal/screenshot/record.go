package main

import (
	"bytes"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"syscall"

	"github.com/hinshun/vt10x"
)

// recording is what a program wrote to a terminal.
type recording struct {
	columns, lines int
	output         []byte
	exit           int
}

// maxOutput is how many bytes a recording may have.
const maxOutput = 16 << 20

// record runs a program on a terminal of its own until it ends. That it fails is
// no error.
func record(cmd *exec.Cmd, columns, lines int) (*recording, error) {
	master, slave, err := openTerminal(columns, lines)
	if err != nil {
		return nil, fmt.Errorf("open a terminal: %w", err)
	}
	defer master.Close()
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		slave.Close()
		return nil, err
	}
	slave.Close()
	r := &recording{columns: columns, lines: lines}
	buf := make([]byte, 32<<10)
	full := false
	for {
		n, err := master.Read(buf)
		if len(r.output)+n > maxOutput {
			n = 0
			full = true
			cmd.Process.Signal(syscall.SIGTERM)
		}
		r.output = append(r.output, buf[:n]...)
		if err != nil {
			break // EIO: nobody has the other end any more
		}
	}
	var exit *exec.ExitError
	if err := cmd.Wait(); err != nil && !errors.As(err, &exit) {
		return nil, err
	}
	if full {
		return nil, fmt.Errorf("record %s: it prints more than %d bytes", cmd.Path, maxOutput)
	}
	r.exit = cmd.ProcessState.ExitCode()
	return r, nil
}

// updateEnd is what kiln writes after each drawing.
const updateEnd = "\x1b[?2026l"

// play writes the recording to a terminal, and calls see after each drawing and
// at the end, with how many bytes have been written.
func (r *recording) play(see func(t vt10x.Terminal, n int)) {
	t := vt10x.New(vt10x.WithSize(r.columns, r.lines))
	for n := 0; n < len(r.output); {
		piece := r.output[n:]
		if i := bytes.Index(piece, []byte(updateEnd)); i >= 0 {
			piece = piece[:i+len(updateEnd)]
		}
		// The emulator does not know faint text. Grey is how most terminals show it.
		t.Write(bytes.ReplaceAll(piece, []byte("\x1b[0;2m"), []byte("\x1b[0;90m")))
		n += len(piece)
		see(t, n)
	}
}

// end is what the terminal shows at the end.
func (r *recording) end() *screen {
	s := &screen{}
	r.play(func(t vt10x.Terminal, n int) {
		if n == len(r.output) {
			s = look(t)
		}
	})
	return s
}

// busiest is what the terminal shows when it shows most of what can be shown:
// goals that are built, that wait, that are done, and that failed.
func (r *recording) busiest() *screen {
	best := &screen{}
	most := -1
	r.play(func(t vt10x.Terminal, _ int) {
		s := look(t)
		text := s.String()
		score := strings.Count(text, "●")
		for _, sign := range []string{"●", "○", "✓", "✗"} {
			score += 10 * min(strings.Count(text, sign), 2)
		}
		if score >= most {
			most, best = score, s
		}
	})
	return best
}

// screen is what a terminal shows.
type screen struct {
	columns int
	rows    [][]vt10x.Glyph
}

func look(t vt10x.Terminal) *screen {
	columns, lines := t.Size()
	s := &screen{columns: columns}
	for y := range lines {
		row := make([]vt10x.Glyph, columns)
		for x := range row {
			row[x] = t.Cell(x, y)
		}
		s.rows = append(s.rows, row)
	}
	return s
}

// String is the text, without white space at the ends of lines.
func (s *screen) String() string {
	var b strings.Builder
	for _, row := range s.rows {
		line := make([]rune, len(row))
		for i, g := range row {
			line[i] = max(g.Char, ' ')
		}
		b.WriteString(strings.TrimRight(string(line), " "))
		b.WriteByte('\n')
	}
	return strings.TrimRight(b.String(), "\n") + "\n"
}
