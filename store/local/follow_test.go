package local

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/kilnbuild/kiln/internal/testenv"
	"github.com/kilnbuild/kiln/store/storetest"
)

func init() { roles["logger"] = logger }

// logger writes a log, a line for each line that it reads. At the end of its input
// it closes the log.
func logger(args []string) error {
	s, err := Open(context.Background(), ChrootOptions(args[0]))
	if err != nil {
		return err
	}
	w, err := s.CreateLog(drvPath)
	if err != nil {
		return err
	}
	fmt.Println("ready")
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		fmt.Fprintln(w, in.Text())
	}
	return errors.Join(w.Close(), s.Close())
}

// follow opens a log and gives its lines one by one, and "" for its end.
func follow(t *testing.T, s *Store) func() string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	r, err := s.FollowLog(ctx, drvPath, func() { t.Error("it waits for the log to begin") })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() })
	lines := bufio.NewReader(r)
	return func() string {
		line, err := lines.ReadString('\n')
		if err != nil && err != io.EOF {
			t.Errorf("after %q: %v", line, err)
		}
		return line
	}
}

// Somebody else writes the log, and closes it or dies.
func TestFollowLogOfAnotherProcess(t *testing.T) {
	for name, kill := range map[string]bool{"closed": false, "killed": true} {
		t.Run(name, func(t *testing.T) {
			root := tempDir(t)
			s := open(t, options(t, root))
			writer := player(t, "logger", root)
			in, err := writer.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			out, err := writer.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			writer.Stderr = os.Stderr
			if err := writer.Start(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { writer.Process.Kill(); writer.Wait() })
			if ready, err := bufio.NewReader(out).ReadString('\n'); err != nil {
				t.Fatalf("%q, %v", ready, err)
			}
			// One from the beginning, one who comes later.
			first := follow(t, s)
			for i := range 3 {
				want := fmt.Sprintln("line", i)
				fmt.Fprint(in, want)
				if got := first(); got != want {
					t.Errorf("line %q, want %q", got, want)
				}
			}
			late := follow(t, s)
			if got := late() + late() + late(); got != "line 0\nline 1\nline 2\n" {
				t.Errorf("who comes late reads %q", got)
			}
			if kill {
				if err := writer.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			} else {
				fmt.Fprintln(in, "last")
				if first() != "last\n" || late() != "last\n" {
					t.Error("the last line is missing")
				}
				in.Close()
			}
			if got := first() + late(); got != "" {
				t.Errorf("after the end: %q", got)
			}
			err = writer.Wait()
			if !kill && err != nil {
				t.Error(err)
			}
			if got := readLog(t, s, drvPath); !strings.HasPrefix(got, "line 0\n") {
				t.Errorf("the log is %q", got)
			}
			if err := s.Recover(t.Context()); err != nil { // after the one who was killed
				t.Error(err)
			}
		})
	}
}

// A log that is complete is only read.
func TestFollowCompleteLog(t *testing.T) {
	for _, compress := range []bool{true, false} {
		o := options(t, tempDir(t))
		o.CompressLogs = compress
		s := open(t, o)
		writeLog(t, s, drvPath, "one\ntwo\n")
		s.logs.wait()
		line := follow(t, s)
		if got := line() + line() + line(); got != "one\ntwo\n" {
			t.Errorf("compressed %t: %q", compress, got)
		}
	}
}

// What was written before its end is read by those who look only afterwards, also
// when the log has been replaced by its compressed form.
func TestFollowLogThatIsReplaced(t *testing.T) {
	s := newStore(t)
	w, err := s.CreateLog(drvPath)
	if err != nil {
		t.Fatal(err)
	}
	line := follow(t, s)
	fmt.Fprintln(w, "text")
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	s.logs.wait()
	if got := line() + line(); got != "text\n" {
		t.Errorf("%q", got)
	}
}

func TestFollowLogWaits(t *testing.T) {
	s := newStore(t)
	waits := make(chan bool, 10)
	got := make(chan string)
	go func() {
		r, err := s.FollowLog(t.Context(), drvPath, func() { waits <- true })
		if err != nil {
			got <- err.Error()
			return
		}
		text, err := io.ReadAll(r)
		if err := errors.Join(err, r.Close()); err != nil {
			got <- err.Error()
			return
		}
		got <- string(text)
	}()
	<-waits
	time.Sleep(3 * followOften)
	writeLog(t, s, drvPath, "text\n")
	if text := <-got; text != "text\n" || len(waits) > 0 {
		t.Errorf("read %q; told to wait %d times more", text, len(waits))
	}
}

func TestFollowLogIsCancelled(t *testing.T) {
	s := newStore(t)
	stop := errors.New("enough")
	ctx, cancel := context.WithCancelCause(t.Context())
	if _, err := s.FollowLog(ctx, drvPath, func() { cancel(stop) }); !errors.Is(err, stop) {
		t.Errorf("waiting for the log: %v", err)
	}
	w, err := s.CreateLog(drvPath)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	ctx, cancel = context.WithCancelCause(t.Context())
	r, err := s.FollowLog(ctx, drvPath, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	time.AfterFunc(followOften, func() { cancel(stop) })
	if _, err := r.Read(make([]byte, 10)); !errors.Is(err, stop) {
		t.Errorf("waiting for more: %v", err)
	}
	if _, err := s.FollowLog(t.Context(), "../x", nil); err == nil {
		t.Error("no error for what is no store path")
	}
}

// A log that is begun but not locked yet is not taken for a complete one, unless
// it stays so.
func TestFollowLogThatIsBegun(t *testing.T) {
	s := newStore(t)
	f, err := createLogFile(s.logPath(drvPath))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	l := &followedLog{ctx: t.Context(), file: mustOpen(t, f.Name())}
	if complete, err := l.isComplete(); complete || err != nil {
		t.Errorf("first look: %t, %v", complete, err)
	}
	if complete, err := l.isComplete(); !complete || err != nil {
		t.Errorf("second look: %t, %v", complete, err)
	}
	l.begun = false
	if err := flock(f, lockExclusive); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if complete, err := l.isComplete(); complete || err != nil {
			t.Errorf("while it is locked: %t, %v", complete, err)
		}
	}
}

// Nix reads logs in all their states, by derivation and by output.
func TestNixReadsOurLogs(t *testing.T) {
	testenv.NixVersion(t)
	s := newStore(t)
	drv := derivation(t, s, "logged")
	drvPath, err := s.AddDerivation(t.Context(), drv)
	if err != nil {
		t.Fatal(err)
	}
	built := storetest.Built(t, s.Dir(), "logged", false)
	built.Info.Deriver = drvPath
	storetest.Add(t, s, built)
	check := func(when, want string) {
		t.Helper()
		for _, args := range [][]string{
			{"nix-store", "--read-log", s.Dir().Join(drvPath)},
			{"nix-store", "-l", s.Dir().Join(built.Info.Path)},
			{"nix", "log", s.Dir().Join(drvPath)},
			{"nix", "log", s.Dir().Join(built.Info.Path)},
		} {
			if got := realNix(t, rootOf(s), args[0], args[1:]...); got != strings.TrimSpace(want) {
				t.Errorf("%s: %s: %.40q of %d bytes, want %.40q of %d", when, strings.Join(args[:2], " "), got, len(got), want, len(want))
			}
		}
	}
	for _, text := range []string{"", "short\n", strings.Repeat("a line of a log\n", 100_000)} {
		w, err := s.CreateLog(drvPath)
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprint(w, text)
		check("running", text)
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		s.logs.wait()
		check("compressed", text)
	}
}

// A store that is closed leaves logs plain that would take too long to compress.
func TestCloseLeavesLongLogs(t *testing.T) {
	s := newStore(t)
	text := strings.Repeat("a line of a log\n", 500_000)
	s.logs.stop() // as if a second had gone by
	writeLog(t, s, drvPath, text)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if left := logNames(t, s); len(left) != 1 || strings.HasSuffix(left[0], compressedSuffix) {
		t.Errorf("logs: %v", left)
	}
	if got := readLog(t, s, drvPath); got != text {
		t.Errorf("the log has %d bytes, want %d", len(got), len(text))
	}
}
