package main

import (
	"bytes"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	kilnv1 "github.com/kilnbuild/kiln/api/kiln/v1"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// TestTop holds the table, and that what a builder uses is counted from one look to the
// next.
func TestTop(t *testing.T) {
	start := time.Unix(1_000_000, 0)
	at := func(s int) *timestamppb.Timestamp {
		return timestamppb.New(start.Add(time.Duration(s) * time.Second))
	}
	used := func(user, system int) *kilnv1.Resources {
		return &kilnv1.Resources{UserTime: durationpb.New(time.Duration(user) * time.Second), SystemTime: durationpb.New(time.Duration(system) * time.Second),
			MemoryBytes: 300 << 20, Processes: 12, ReadBytes: 5 << 20, WriteBytes: 1 << 10}
	}
	busy := &kilnv1.Builder{StorePath: "/nix/store/00000000000000000000000000000000-busy-1.0.drv", Started: at(0), Phase: "build\x1b[2JPhase", Resources: used(15, 5), Sampled: at(10)}
	list := []*kilnv1.BuildInfo{
		{Id: "late", Targets: []string{"/nix/store/00000000000000000000000000000000-late.drv^*", "/nix/store/x"}, Created: at(5)},
		{Id: "waits", Targets: []string{"/nix/store/00000000000000000000000000000000-tool.drv^out"}, Created: at(0), Activity: "waiting for lock on '/nix/store/x'"},
		{Id: "runs", Created: at(0), Builders: []*kilnv1.Builder{
			{StorePath: "/nix/store/00000000000000000000000000000000-elsewhere.drv", Started: at(8), Machine: "ssh://big"}, busy,
		}},
	}
	caps := &kilnv1.Capabilities{Slots: 4, Load: 1.5, Processors: 8, FreeBytes: 7 << 30}
	const head = "builders: 2, on 4 slots; waiting builds: 2; load 1.50 of 8 processors; 7.0 GiB free\n\n" +
		"BUILD  BUILDER                 PHASE           TIME  CPU%  MEMORY     PROCS  READ     WRITTEN  \n"
	const tail = "runs   elsewhere on ssh://big  -               2s    -     -          -      -        -        \n" +
		"\n" +
		"BUILD  WHAT             AGE  WAITS                               \n" +
		"waits  tool             10s  waiting for lock on '/nix/store/x'  \n" +
		"late   late and 1 more  5s   for its turn                        \n"
	m := newMeter()
	var out bytes.Buffer
	m.print(&out, caps, list, start.Add(10*time.Second))
	want := head + "runs   busy-1.0                build?[2JPhase  10s   200   300.0 MiB  12     5.0 MiB  1.0 KiB  \n" + tail
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("the table (-want +got):\n%s", diff)
	}
	busy.Resources, busy.Sampled = used(16, 5), at(12)
	for _, again := range []string{"a new sample", "no new sample"} {
		readings := make(map[string]reading)
		if got := m.percent(readings, list[2], busy); got != 50 {
			t.Errorf("%s: %v %%, want 50", again, got)
		}
		m.last = readings
	}
}

// TestOnScreen wants no more than there is room for.
func TestOnScreen(t *testing.T) {
	got := string(onScreen([]byte("a long line\nb\nc\n"), 6, 3))
	if want := "\x1b[Ha long\x1b[K\r\nb\x1b[K\x1b[J"; got != want {
		t.Errorf("it shows %q, want %q", got, want)
	}
}
