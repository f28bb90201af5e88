package main

import (
	"bufio"
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"
)

// logJSON is what the flag --log-json of services does: from now on everything that goes to
// standard error, whoever writes it, comes out as a JSON object for each line, with time,
// level and msg. The function that it returns ends that, and waits until everything is out.
//
// It works on the lines because there are many who write them, libraries and programs that
// are started among them. What the Go runtime says of a crash stays as it is.
func logJSON() (end func(), err error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	real := os.Stderr
	done := make(chan struct{})
	go func() {
		defer close(done)
		linesToJSON(real, r)
	}()
	os.Stderr = w
	return func() {
		os.Stderr = real
		w.Close()
		// A program that lives on, such as a hook of the operator's, may hold the other end.
		const patience = time.Second
		select {
		case <-done:
		case <-time.After(patience):
		}
		r.Close()
	}, nil
}

// maxLine is how much of a line makes one object, in bytes; a longer line makes several.
const maxLine = 16 << 10

// linesToJSON turns lines into objects until there are no more.
func linesToJSON(w io.Writer, r io.Reader) {
	out := slog.New(slog.NewJSONHandler(w, nil))
	in := bufio.NewReaderSize(r, maxLine)
	for {
		line, err := in.ReadSlice('\n')
		if text := strings.TrimRight(string(line), "\r\n"); text != "" {
			level, text := levelOf(text)
			out.Log(context.Background(), level, text)
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return
		}
	}
}

// levelOf takes the level off a line.
func levelOf(line string) (slog.Level, string) {
	for prefix, level := range map[string]slog.Level{"error: ": slog.LevelError, "warning: ": slog.LevelWarn} {
		if text, ok := strings.CutPrefix(line, prefix); ok {
			return level, text
		}
	}
	return slog.LevelInfo, line
}
