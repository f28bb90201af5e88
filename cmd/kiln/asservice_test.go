package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

func TestServiceExit(t *testing.T) {
	for _, test := range []struct {
		err  error
		want int
	}{
		{nil, 0},
		{errors.New("listen: address in use"), 1},
		{fmt.Errorf("open store: %w", &fs.PathError{Op: "mkdir", Path: "/nix", Err: syscall.EROFS}), exitNotAllowed},
		{fmt.Errorf("open store: %w", fs.ErrPermission), exitNotAllowed},
		{&settingsError{errors.New("setting 'cores': not a number")}, exitSettings},
		{&exitError{code: 100, err: fs.ErrPermission}, 100},
	} {
		got := 0
		var exit *exitError
		if err := serviceExit(test.err); errors.As(err, &exit) {
			got = exit.code
		} else if err != nil {
			got = 1
		}
		if got != test.want {
			t.Errorf("%v: exit code %d, want %d", test.err, got, test.want)
		}
	}
}

func TestLinesToJSON(t *testing.T) {
	long := strings.Repeat("x", maxLine+10)
	var out bytes.Buffer
	linesToJSON(&out, strings.NewReader("warning: \"odd\"\x00\nerror: bad\n\n"+long+"\nlast"))
	var got []string
	for line := range strings.Lines(out.String()) {
		var m struct{ Time, Level, Msg string }
		if err := json.Unmarshal([]byte(line), &m); err != nil || m.Time == "" {
			t.Fatalf("%.100q: %v", line, err)
		}
		got = append(got, m.Level+" "+m.Msg)
	}
	want := []string{"WARN \"odd\"\x00", "ERROR bad", "INFO " + long[:maxLine], "INFO " + long[maxLine:], "INFO last"}
	if strings.Join(got, "|") != strings.Join(want, "|") {
		t.Errorf("got %.300q", got)
	}
}

func TestTerminationMessage(t *testing.T) {
	file := filepath.Join(t.TempDir(), "message")
	t.Setenv(terminationSetting, file)
	for _, test := range []struct{ text, want string }{
		{"a longer one", "a longer one\n"},
		{"short", "short\n"},
		{strings.Repeat("ü", maxTermination), strings.Repeat("ü", maxTermination/2-1) + "\n"},
	} {
		terminationMessage(test.text)
		if got, err := os.ReadFile(file); err != nil || string(got) != test.want {
			t.Errorf("%.20q: %.20q, %v", test.text, got, err)
		}
	}
	t.Setenv(terminationSetting, filepath.Join(file, "nowhere"))
	terminationMessage("lost") // and nothing else happens
}
