package rpc

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	kilnv1 "github.com/kilnbuild/kiln/api/kiln/v1"
)

func logEvent(text string) *kilnv1.BuildEvent {
	return &kilnv1.BuildEvent{Event: &kilnv1.BuildEvent_Log{Log: &kilnv1.LogChunk{Data: []byte(text)}}}
}

// TestJournalCut wants that whatever a killed process has written is read up to the last
// whole event, and goes on from there.
func TestJournalCut(t *testing.T) {
	whole := filepath.Join(t.TempDir(), "events")
	j := newJournal(whole, "x")
	var ends []int64
	for _, text := range []string{"one", "two", strings.Repeat("3", 300)} {
		j.append(logEvent(text))
		ends = append(ends, j.size)
	}
	data, err := os.ReadFile(whole)
	if err != nil {
		t.Fatal(err)
	}
	for n := range len(data) + 1 {
		path := filepath.Join(t.TempDir(), "events")
		if err := os.WriteFile(path, data[:n], 0o600); err != nil {
			t.Fatal(err)
		}
		again := newJournal(path, "x")
		if err := again.recover(); err != nil {
			t.Fatal(err)
		}
		want := uint64(0)
		for _, end := range ends {
			if int64(n) >= end {
				want++
			}
		}
		if again.events != want {
			t.Fatalf("%d bytes have %d events, want %d", n, again.events, want)
		}
		again.append(logEvent("more"))
		again.end(nil)
		var log string
		if err := again.read(t.Context(), 0, true, func(e *kilnv1.BuildEvent) error { log += string(e.GetLog().Data); return nil }); err != nil || !strings.HasSuffix(log, "more") {
			t.Fatalf("after %d bytes: %q, %v", n, log, err)
		}
	}
}

func FuzzReadEvents(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte{3, 8, 1, 26})
	f.Add([]byte{0x80, 0}) // a length that is longer than it has to be
	f.Add(binary.AppendUvarint(nil, maxEvent+1))
	f.Add(binary.AppendUvarint(nil, maxEvent))
	f.Fuzz(func(t *testing.T, data []byte) {
		n := 0
		whole, err := readEvents(bytes.NewReader(data), func(*kilnv1.BuildEvent) error { n++; return nil })
		if whole < 0 || whole > int64(len(data)) {
			t.Fatalf("%d of %d bytes are whole", whole, len(data))
		}
		again := 0
		stop := errors.New("stop")
		if _, rerr := readEvents(bytes.NewReader(data[:whole]), func(*kilnv1.BuildEvent) error { again++; return nil }); rerr != nil && !errors.Is(rerr, stop) || again != n {
			t.Fatalf("%d events, and %d in what is whole: %v, %v", n, again, err, rerr)
		}
	})
}

// TestJournalMerges wants pieces of log to come as one, but not over what happened between
// them, over a bound, or over where the reader begins.
func TestJournalMerges(t *testing.T) {
	j := newJournal(filepath.Join(t.TempDir(), "events"), "x")
	add := func(path, text string) {
		e := logEvent(text)
		e.StorePath = path
		j.append(e)
	}
	add("a", "1")
	add("a", "2")
	j.append(&kilnv1.BuildEvent{Event: &kilnv1.BuildEvent_Phase{Phase: &kilnv1.Phase{}}})
	add("a", "3")
	add("b", "4")
	add("b", strings.Repeat("5", maxMerged-1))
	add("b", "6")
	j.end(&kilnv1.BuildEvent{Event: &kilnv1.BuildEvent_Ended{Ended: &kilnv1.BuildInfo{}}})
	for after, want := range map[uint64]string{
		0: "2@0+2 3 4@2+1 6@3+15360 7@15363+1 8", 1: "2@1+1 3 4@2+1 6@3+15360 7@15363+1 8", 5: "7@4+15360 8", 8: "8", 9: "8",
	} {
		var got []string
		err := j.read(t.Context(), after, true, func(e *kilnv1.BuildEvent) error {
			text := fmt.Sprint(e.Number)
			if log := e.GetLog(); log != nil {
				text += fmt.Sprintf("@%d+%d", log.Offset, len(log.Data))
			}
			got = append(got, text)
			return nil
		})
		if text := strings.Join(got, " "); err != nil || text != want {
			t.Errorf("after %d: %s, %v, want %s", after, text, err, want)
		}
	}
}
