package rpc

import (
	"bytes"
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	kilnv1 "github.com/kilnbuild/kiln/api/kiln/v1"
	"github.com/kilnbuild/kiln/internal/testenv"
	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/store/local"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
)

// TestBuild builds as root or whoever runs the tests.
func TestBuild(t *testing.T) { testBuild(t) }

// TestBuildOrdinary builds as an ordinary user.
func TestBuildOrdinary(t *testing.T) {
	if testenv.AsOrdinaryUser(t) {
		testBuild(t)
	}
}

func testBuild(t *testing.T) {
	m := newMachine(t, 2)
	m.start()
	c := m.dial()
	r := m.request("first", "hello", "echo one; echo two; echo hello > $out", nil)
	r.Labels = map[string]string{"job": "7"}
	got := m.build(t, c, r)
	result := got.result.GetResults()
	if got.result.State != kilnv1.BuildState_BUILD_STATE_SUCCEEDED || len(result) != 1 || !result[0].Success || result[0].Status != "Built" {
		t.Fatalf("result: %v", got.result)
	}
	out := result[0].Outputs
	if len(out) != 1 || out[0].NarSize <= 0 || !strings.HasPrefix(out[0].NarHash, "sha256-") || !strings.HasSuffix(out[0].StorePath, "-hello") {
		t.Errorf("outputs: %v", out)
	}
	if result[0].Isolation.GetLevel() != kilnv1.IsolationLevel_ISOLATION_LEVEL_FULL {
		t.Errorf("isolation: %v", result[0].Isolation)
	}
	if strings.ReplaceAll(got.log, "\r", "") != "one\ntwo\n" || got.kinds["queued"] != 1 || got.kinds["started"] != 1 {
		t.Errorf("log %q, events %v", got.log, got.kinds)
	}

	// The same again joins, with everything from the beginning or from where it was left.
	r.AfterEvent = got.last - 1
	again := m.build(t, c, r)
	if again.log != "" || again.result.GetEnded().AsTime() != got.result.GetEnded().AsTime() {
		t.Errorf("the same again: %+v", again)
	}
	r.Targets[0].Outputs = []string{"out"}
	stream, err := c.Executor.Build(t.Context(), r)
	if err == nil {
		_, err = stream.Recv()
	}
	if status.Code(err) != codes.AlreadyExists {
		t.Errorf("another request of the same id: %v", err)
	}

	// Watchers begin where they like.
	for _, w := range []struct {
		request *kilnv1.WatchBuildRequest
		log     string
		events  bool
	}{
		{&kilnv1.WatchBuildRequest{}, "one\ntwo\n", true},
		{&kilnv1.WatchBuildRequest{LogOffset: 2}, "e\ntwo\n", true},
		{&kilnv1.WatchBuildRequest{LogOffset: 1000}, "", true},
		{&kilnv1.WatchBuildRequest{LogOnly: true}, "one\ntwo\n", false},
	} {
		w.request.Id = "first"
		stream, err := c.Executor.WatchBuild(t.Context(), w.request)
		if err != nil {
			t.Fatal(err)
		}
		got, err := collect(stream)
		if log := strings.ReplaceAll(got.log, "\r", ""); err != nil || log != w.log || (got.kinds["started"] > 0) != w.events {
			t.Errorf("watching with %v: %q, %v, %v", w.request, log, got.kinds, err)
		}
	}

	// As a nix.Builder, with a derivation that is in no store.
	text := m.derivation("resolved", "echo hi > $out", nil)
	drv, err := parseText(m, text)
	if err != nil {
		t.Fatal(err)
	}
	path := nix.StorePath(strings.Repeat("0", 32) + "-resolved.drv")
	req := &nix.BuildRequest{Paths: []nix.DerivedPath{nix.Built(path, nix.AllOutputs)}, Basic: map[nix.StorePath]*nix.BasicDerivation{path: &drv.BasicDerivation}}
	results, err := c.Build(t.Context(), req)
	if err != nil || len(results) != 1 || results[0].Status != nix.StatusBuilt || results[0].Outputs["out"].OutPath.Name() != "resolved" {
		t.Errorf("as a builder: %+v, %v", results, err)
	}

	list, err := c.Executor.ListBuilds(t.Context(), &kilnv1.ListBuildsRequest{Labels: map[string]string{"job": "7"}})
	if err != nil || len(list.Builds) != 1 || list.Builds[0].Id != "first" {
		t.Errorf("builds of job 7: %v, %v", list, err)
	}
	list, err = c.Executor.ListBuilds(t.Context(), &kilnv1.ListBuildsRequest{PageSize: 1})
	if err != nil || len(list.Builds) != 1 || list.NextPageToken == "" {
		t.Fatalf("first page: %v, %v", list, err)
	}
	list, err = c.Executor.ListBuilds(t.Context(), &kilnv1.ListBuildsRequest{PageSize: 1, PageToken: list.NextPageToken})
	if err != nil || len(list.Builds) != 1 || list.Builds[0].Id != "first" || list.NextPageToken != "" {
		t.Errorf("second page: %v, %v", list, err)
	}
	caps, err := c.Executor.GetCapabilities(t.Context(), &kilnv1.GetCapabilitiesRequest{})
	if err != nil || caps.Slots != 2 || caps.Role != kilnv1.Role_ROLE_ADMIN || caps.StoreDir != "/nix/store" {
		t.Errorf("capabilities: %v, %v", caps, err)
	}
	var metrics bytes.Buffer
	if err := m.server.WriteMetrics(&metrics); err != nil || !strings.Contains(metrics.String(), "kiln_builds_total{state=\"succeeded\"} 2\n") {
		t.Errorf("metrics: %v\n%s", err, &metrics)
	}
}

// TestMisbehaving has each bad builder end with a failure of its own, and the next build
// work.
func TestMisbehaving(t *testing.T) {
	m := newMachine(t, 4)
	m.start()
	c := m.dial()
	cgroups := testenv.Root()
	bad := []struct {
		name, script string
		limits       *kilnv1.Limits
		kind         kilnv1.FailureKind
		group        bool // needs control groups
	}{
		{"hog", "x=0123456789abcdef; while :; do x=$x$x; done", &kilnv1.Limits{MemoryBytes: 32 << 20}, kilnv1.FailureKind_FAILURE_KIND_OUT_OF_MEMORY, true},
		{"bomb", "b() { b | b & }; b; while :; do sleep 0.1 & done", &kilnv1.Limits{Processes: 30}, kilnv1.FailureKind_FAILURE_KIND_TOO_MANY_PROCESSES, true},
		{"stubborn-bomb", "while :; do (sleep 5 & sleep 5 & sleep 5 & sleep 5 & sleep 5 & sleep 5 &) 2>/dev/null; done & wait; sleep 100", &kilnv1.Limits{Processes: 5}, kilnv1.FailureKind_FAILURE_KIND_TOO_MANY_PROCESSES, true},
		{"filler", "while :; do dd if=/dev/zero of=f$i bs=1M count=5 2>/dev/null; i=x$i; sleep 0.1; done", &kilnv1.Limits{BuildDirBytes: 10 << 20}, kilnv1.FailureKind_FAILURE_KIND_BUILD_DIR_SIZE, false},
		{"out-filler", "mkdir $out; dd if=/dev/zero of=$out/f bs=1M count=20 2>/dev/null; echo done", &kilnv1.Limits{OutputBytes: 10 << 20}, kilnv1.FailureKind_FAILURE_KIND_OUTPUT_SIZE, false},
		{"flooder", "while :; do echo flood; done", &kilnv1.Limits{LogBytes: 100 << 10}, kilnv1.FailureKind_FAILURE_KIND_LOG_SIZE, false},
		{"sleeper", "while :; do echo; sleep 0.1; done", &kilnv1.Limits{Timeout: durationpb.New(time.Second)}, kilnv1.FailureKind_FAILURE_KIND_TIMEOUT, false},
		{"silent", "sleep 100", &kilnv1.Limits{MaxSilent: durationpb.New(time.Second)}, kilnv1.FailureKind_FAILURE_KIND_SILENCE, false},
		{"exits", "exit 3", nil, kilnv1.FailureKind_FAILURE_KIND_EXIT, false},
		{"no-output", "echo nothing", nil, kilnv1.FailureKind_FAILURE_KIND_OUTPUT_REJECTED, false},
	}
	t.Run("bad", func(t *testing.T) {
		for _, b := range bad {
			if b.group && !cgroups {
				continue // an ordinary user has no control groups
			}
			t.Run(b.name, func(t *testing.T) {
				t.Parallel()
				got := m.build(t, c, m.request(b.name, b.name, b.script, b.limits))
				results := got.result.Results
				if got.result.State != kilnv1.BuildState_BUILD_STATE_FAILED || len(results) != 1 || results[0].Failure.GetKind() != b.kind {
					t.Fatalf("it ended with %v", got.result)
				}
				if f := results[0].Failure; b.limits != nil && f.Limit == 0 {
					t.Errorf("no limit in %v", f)
				}
			})
		}
	})
	t.Run("next", func(t *testing.T) {
		if got := m.build(t, c, m.request("next", "next", "echo fine > $out", &kilnv1.Limits{MemoryBytes: 64 << 20, Processes: 20, CpuQuota: 100, CpuWeight: 50})); got.result.State != kilnv1.BuildState_BUILD_STATE_SUCCEEDED {
			t.Errorf("the next build: %v", got.result)
		}
	})
}

// TestNotEnforced has an ordinary user, who has no control groups here, told so.
func TestNotEnforced(t *testing.T) {
	if !testenv.AsOrdinaryUser(t) {
		return
	}
	m := newMachine(t, 1)
	m.start()
	c := m.dial()
	got := m.build(t, c, m.request("lenient", "lenient", "echo > $out", &kilnv1.Limits{MemoryBytes: 64 << 20}))
	if got.result.State != kilnv1.BuildState_BUILD_STATE_SUCCEEDED {
		t.Fatalf("without control groups: %v", got.result)
	}
	inForce := ""
	for _, l := range got.result.Results[0].Isolation.Layers {
		if l.Name == "memory limit" {
			inForce = l.InForce
		}
	}
	if inForce != "not enforced" {
		t.Skipf("this user has control groups: %q", inForce)
	}
	got = m.build(t, c, m.request("strict", "strict", "echo > $out", &kilnv1.Limits{MemoryBytes: 64 << 20, Require: true}))
	if f := got.result.GetResults()[0].Failure; f.GetKind() != kilnv1.FailureKind_FAILURE_KIND_NOT_HERE || !f.AnotherMachineHelps {
		t.Errorf("a limit that is required: %v", got.result)
	}
}

// TestBadRequests wants the right status, and the field named.
func TestBadRequests(t *testing.T) {
	m := newMachine(t, 1)
	m.start()
	c := m.dial()
	forged := m.derivation("forged", "echo > $out", nil)
	other := m.derivation("other", "echo other > $out", nil)
	hashOf := func(d *kilnv1.DerivationText, name string) string {
		i := bytes.Index(d.Text, []byte("-"+name+`"`))
		return string(d.Text[i-32 : i])
	}
	forged.Text = bytes.ReplaceAll(forged.Text, []byte(hashOf(forged, "forged")), []byte(hashOf(other, "other")))
	good := func() *kilnv1.BuildRequest { return m.request("x", "x", "echo > $out", nil) }
	for name, b := range map[string]struct {
		change func(*kilnv1.BuildRequest)
		field  string
	}{
		"id with a slash": {func(r *kilnv1.BuildRequest) { r.Id = "../x" }, "id"},
		"long id":         {func(r *kilnv1.BuildRequest) { r.Id = strings.Repeat("x", 129) }, "id"},
		"no targets":      {func(r *kilnv1.BuildRequest) { r.Targets = nil }, "targets"},
		"empty target":    {func(r *kilnv1.BuildRequest) { r.Targets[0].What = nil }, "targets[0]"},
		"nonsense":        {func(r *kilnv1.BuildRequest) { r.Targets[0].GetDerivationText().Text = []byte("Derive(") }, "targets[0].derivation_text.text"},
		"forged outputs": {func(r *kilnv1.BuildRequest) {
			r.Targets[0].What = &kilnv1.Target_DerivationText{DerivationText: forged}
		}, "targets[0].derivation_text.text"},
		"foreign path": {func(r *kilnv1.BuildRequest) { r.Targets[0].What = &kilnv1.Target_StorePath{StorePath: "/etc/passwd"} }, "targets[0].store_path"},
		"contradicting limits": {func(r *kilnv1.BuildRequest) {
			r.Limits = &kilnv1.Limits{Timeout: durationpb.New(time.Second), MaxSilent: durationpb.New(time.Minute)}
		}, "limits.max_silent"},
		"negative limit": {func(r *kilnv1.BuildRequest) { r.Limits = &kilnv1.Limits{MemoryBytes: -1} }, "limits.memory_bytes"},
		"rounds":         {func(r *kilnv1.BuildRequest) { r.Rounds = 2 }, "rounds"},
	} {
		r := good()
		b.change(r)
		stream, err := c.Executor.Build(t.Context(), r)
		if err == nil {
			_, err = stream.Recv()
		}
		field := ""
		for _, d := range status.Convert(err).Details() {
			if bad, ok := d.(*errdetails.BadRequest); ok {
				field = bad.FieldViolations[0].Field
			}
		}
		if status.Code(err) != codes.InvalidArgument || field != b.field {
			t.Errorf("%s: %v, field %q", name, err, field)
		}
	}
	for _, id := range []string{"unknown", "x"} {
		if _, err := c.Executor.GetBuild(t.Context(), &kilnv1.GetBuildRequest{Id: id}); status.Code(err) != codes.NotFound {
			t.Errorf("build %q: %v", id, err)
		}
	}
	if files := m.files(); len(files) != 0 {
		t.Errorf("refused requests leave %v", files)
	}
}

// TestTransfer brings a closure to a machine and fetches it from there, and tries what
// must not work.
func TestTransfer(t *testing.T) {
	m := newMachine(t, 1)
	m.start()
	c := m.dial()
	ctx := t.Context()
	there, err := local.Open(ctx, local.ChrootOptions(m.scene.Path("other")))
	if err != nil {
		t.Fatal(err)
	}
	defer there.Close()
	big := bytes.Repeat([]byte("0123456789abcdef"), 20000)
	a, err := there.AddText(ctx, "a", big, nil)
	if err != nil {
		t.Fatal(err)
	}
	b, err := there.AddText(ctx, "b", []byte(there.Dir().Join(a)), []nix.StorePath{a})
	if err != nil {
		t.Fatal(err)
	}
	info, err := there.PathInfo(ctx, b)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.upload(ctx, there, info); status.Code(err) != codes.InvalidArgument {
		t.Errorf("an upload whose reference is missing: %v", err)
	}
	if err := c.Bring(ctx, there, b); err != nil {
		t.Fatal(err)
	}
	back, err := local.Open(ctx, local.ChrootOptions(m.scene.Path("back")))
	if err != nil {
		t.Fatal(err)
	}
	defer back.Close()
	if err := c.Fetch(ctx, back, true, b); err != nil {
		t.Fatal(err)
	}
	if text, err := back.ReadFile(ctx, a, 1<<20); err != nil || !bytes.Equal(text, big) {
		t.Errorf("what came back is not what was brought: %v", err)
	}

	wrong, err := there.AddText(ctx, "wrong", big, nil)
	if err != nil {
		t.Fatal(err)
	}
	if info, err = there.PathInfo(ctx, wrong); err != nil {
		t.Fatal(err)
	}
	lie := *info
	lie.NARHash = nix.HashBytes(nix.SHA256, []byte("something else"))
	if err := c.upload(ctx, there, &lie); status.Code(err) != codes.InvalidArgument {
		t.Errorf("an upload of a wrong hash: %v", err)
	}
	// One that stops half-way.
	half, cancel := context.WithCancel(ctx)
	stream, err := c.Store.Upload(half)
	if err == nil {
		err = stream.Send(&kilnv1.UploadRequest{Part: &kilnv1.UploadRequest_Info{Info: &kilnv1.UploadInfo{Info: pathInfo(c.dir, info)}}})
	}
	if err == nil {
		err = stream.Send(&kilnv1.UploadRequest{Part: &kilnv1.UploadRequest_Data{Data: big[:1000]}})
	}
	if err != nil {
		t.Fatal(err)
	}
	cancel()
	if missing, err := c.Store.QueryMissing(ctx, &kilnv1.QueryMissingRequest{StorePaths: []string{c.dir.Join(wrong), c.dir.Join(a)}}); err != nil || fmt.Sprint(missing.StorePaths) != "["+c.dir.Join(wrong)+"]" {
		t.Errorf("missing: %v, %v", missing, err)
	}
	if err := c.upload(ctx, there, info); err != nil {
		t.Errorf("the right one after that: %v", err)
	}
}
