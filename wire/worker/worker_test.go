package worker

import (
	"bytes"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/logline"
	"github.com/kilnbuild/kiln/wire"
)

const (
	pathA nix.StorePath = "00000000000000000000000000000000-a"
	pathB nix.StorePath = "11111111111111111111111111111111-b"
	drvA  nix.StorePath = "22222222222222222222222222222222-a.drv"

	legacyOut = "sha256:0000000000000000000000000000000000000000000000000000000000000000!out"
)

// protocols are those of clients from Nix 2.3 to today's.
func protocols() []Protocol {
	var all []Protocol
	for v := Oldest; v <= Newest; v++ {
		all = append(all, Protocol{Dir: nix.DefaultStoreDir, Version: v})
	}
	return append(all, Protocol{Dir: nix.DefaultStoreDir, Version: Newest, Features: Features()})
}

func encoder(p Protocol, w io.Writer) *Encoder {
	return &Encoder{Writer: wire.NewWriter(w), Protocol: p}
}

func decoder(p Protocol, r io.Reader) *Decoder {
	return &Decoder{Reader: wire.NewReader(r, wire.Limits{}), Protocol: p}
}

func encoded(t testing.TB, p Protocol, write func(*Encoder)) []byte {
	t.Helper()
	var b bytes.Buffer
	e := encoder(p, &b)
	write(e)
	if err := e.Flush(); err != nil {
		t.Fatalf("version %v: %v", p.Version, err)
	}
	return b.Bytes()
}

func info() *nix.PathInfo {
	return &nix.PathInfo{
		Path: pathA, Deriver: drvA, NARHash: nix.HashBytes(nix.SHA256, []byte("x")), NARSize: 120,
		References: []nix.StorePath{pathA, pathB}, RegistrationTime: time.Unix(1700000000, 0), Ultimate: true,
		Signatures: []string{"key:c2ln"}, CA: nix.ContentAddress{Method: nix.Recursive, Hash: nix.HashBytes(nix.SHA256, []byte("y"))},
	}
}

func basic(t testing.TB) *nix.BasicDerivation {
	t.Helper()
	h := nix.HashBytes(nix.SHA256, []byte("z"))
	fixed, err := nix.MakeContentAddressedPath(nix.DefaultStoreDir, "a", nix.ContentAddress{Method: nix.Recursive, Hash: h}, nix.References{})
	if err != nil {
		t.Fatal(err)
	}
	return &nix.BasicDerivation{
		Name: "a",
		Outputs: map[nix.OutputName]nix.DerivationOutput{
			"out": {Kind: nix.Fixed, Path: fixed, Method: nix.Recursive, Algorithm: nix.SHA256, Hash: h},
			"in":  {Kind: nix.InputAddressed, Path: pathB},
			"fl":  {Kind: nix.Floating, Method: nix.Text, Algorithm: nix.SHA256},
			"im":  {Kind: nix.Impure, Method: nix.Recursive, Algorithm: nix.SHA1},
			"de":  {Kind: nix.Deferred},
		},
		InputSrcs: []nix.StorePath{pathA}, System: "x86_64-linux", Builder: "/bin/sh", Args: []string{"-c", ""},
		Env: map[string]string{"out": "x", "": "y"},
	}
}

// requests are one of each kind, as the version can say them.
func requests(t testing.TB, p Protocol) []Request {
	r := &nix.Realisation{ID: nix.DrvOutput{Drv: drvA, Output: "out"}, OutPath: pathA, Signatures: []string{"k:s"}}
	register, query := &RegisterDrvOutput{Realisation: r}, &QueryRealisation{ID: r.ID}
	if !p.Has(RealisationWithPath) {
		legacy := &LegacyRealisation{ID: legacyOut, OutPath: pathA}
		if p.since(31) {
			legacy.Signatures = []string{"k:s"}
		}
		register, query = &RegisterDrvOutput{Legacy: legacy}, &QueryRealisation{LegacyID: legacyOut}
	}
	add := &AddToStore{Name: "a", Method: nix.Flat, Algorithm: nix.SHA1}
	if p.since(25) {
		add = &AddToStore{Name: "a", Method: nix.Text, Algorithm: nix.SHA256, References: []nix.StorePath{pathA}, Repair: true}
	}
	infos := map[nix.StorePath]nix.ContentAddress{pathA: {}, pathB: info().CA}
	if !p.since(22) {
		infos[pathB] = nix.ContentAddress{}
	}
	derived := []nix.DerivedPath{nix.Opaque(pathA), nix.Built(drvA, nix.AllOutputs), nix.Built(drvA, nix.OutputSpec{Names: []nix.OutputName{"dev", "out"}})}
	if p.since(30) {
		derived = append(derived, nix.Opaque(drvA), nix.DerivedPath{Path: drvA, Via: []nix.OutputName{"out"}, Outputs: nix.AllOutputs})
	}
	collect := &CollectGarbage{Action: GCDeleteSpecific, Paths: []nix.StorePath{pathA}, MaxFreed: NoMaxFreed}
	if p.Has(DeleteSpecificReferrers) {
		collect.DeleteReferrers = true
	}
	return []Request{
		&PathRequest{Operation: OpQueryPathInfo, Path: pathA},
		&EmptyRequest{Operation: OpFindRoots},
		&BuildRequest{Operation: OpBuildPaths, Paths: derived, Mode: nix.BuildCheck},
		&QueryMissing{Paths: derived},
		&BuildDerivation{Drv: drvA, Basic: basic(t), Mode: nix.BuildRepair},
		&AddIndirectRoot{Link: "/tmp/result"},
		&AddPermRoot{Path: pathA, Link: "/tmp/result"},
		&ExportPath{Path: pathA},
		&ClearFailedPaths{Paths: []string{"*"}},
		&QueryPathFromHashPart{HashPart: pathA.HashPart()},
		&QuerySubstitutablePathInfos{Paths: infos},
		&QueryValidPaths{Paths: []nix.StorePath{pathA, pathB}, Substitute: p.since(27)},
		&QuerySubstitutablePaths{Paths: []nix.StorePath{pathA}},
		&VerifyStore{Repair: true},
		&AddSignatures{Path: pathA, Signatures: []string{"a:b", "c:d"}},
		register,
		query,
		&SetOptions{KeepGoing: true, Verbosity: 3, MaxBuildJobs: 2, BuildCores: 4, VerboseBuild: true, Overrides: []Override{{"timeout", "7"}}},
		collect,
		&CollectGarbage{Action: GCReturnDead, WholeStore: true},
		add,
		&AddTextToStore{Name: "a", Content: []byte("text"), References: []nix.StorePath{pathB}},
		&AddToStoreNar{Info: info(), DontCheckSigs: true},
		&AddMultipleToStore{Repair: true},
		&AddBuildLog{Drv: drvA},
	}
}

func TestRequests(t *testing.T) {
	for _, p := range protocols() {
		seen := map[Op]bool{}
		for _, want := range requests(t, p) {
			seen[want.Op()] = true
			data := encoded(t, p, func(e *Encoder) { WriteRequest(e, want) })
			d := decoder(p, bytes.NewReader(data))
			got, err := ReadRequest(d)
			if err != nil {
				t.Errorf("version %v, %v: %v", p.Version, want.Op(), err)
				continue
			}
			if diff := cmp.Diff(want, got, cmpopts.EquateEmpty(), cmp.AllowUnexported(nix.Hash{})); diff != "" {
				t.Errorf("version %v, %v (-want +got):\n%s", p.Version, want.Op(), diff)
			}
			if err := d.Wait(); err != io.EOF {
				t.Errorf("version %v, %v: something is left: %v", p.Version, want.Op(), err)
			}
			for _, n := range []int{9, len(data) - 1} { // cut off
				if n <= 8 || n >= len(data) {
					continue
				}
				if _, err := ReadRequest(decoder(p, bytes.NewReader(data[:n]))); !errors.Is(err, io.ErrUnexpectedEOF) {
					t.Errorf("version %v, %v, %d bytes of it: %v", p.Version, want.Op(), n, err)
				}
			}
		}
		for op := range opNames {
			r := newRequest(op)
			if r == nil || r.Op() != op {
				t.Errorf("%v cannot be read", op)
				continue
			}
			_, path := r.(*PathRequest)
			_, empty := r.(*EmptyRequest)
			if !seen[op] && !path && !empty && op != OpBuildPathsWithResults {
				t.Errorf("%v is not tested", op)
			}
		}
	}
}

func TestReplies(t *testing.T) {
	realisation := nix.Realisation{ID: nix.DrvOutput{Drv: drvA, Output: "out"}, OutPath: pathA, Signatures: []string{"k:s"}}
	results := []nix.BuildResult{
		{Path: nix.Built(drvA, nix.AllOutputs), Status: nix.StatusBuilt, TimesBuilt: 1, Start: time.Unix(5, 0), Stop: time.Unix(7, 0),
			Outputs:   map[nix.OutputName]nix.Realisation{"out": realisation},
			Resources: &nix.Resources{UserTime: 3 * time.Second, SystemTime: time.Microsecond}},
		{Path: nix.Opaque(pathA), Status: nix.StatusMiscFailure, Message: "no"},
	}
	for _, p := range protocols() {
		want := cmp.Diff // keeps the lines below short
		check := func(name, diff string) {
			t.Helper()
			if diff != "" {
				t.Errorf("version %v, %s (-want +got):\n%s", p.Version, name, diff)
			}
		}
		opts := cmp.Options{cmpopts.EquateEmpty(), cmp.AllowUnexported(nix.Hash{})}
		read := func(write func(*Encoder)) *Decoder {
			return decoder(p, bytes.NewReader(encoded(t, p, write)))
		}
		check("PathInfo", want(info(), read(func(e *Encoder) { e.PathInfo(info()) }).PathInfo(), opts))
		outputs := map[nix.OutputName]nix.StorePath{"out": pathA, "dev": ""}
		check("OutputMap", want(outputs, read(func(e *Encoder) { e.OutputMap(outputs) }).OutputMap(), opts))
		missing := &Missing{WillBuild: []nix.StorePath{drvA}, Unknown: []nix.StorePath{pathA, pathB}, DownloadSize: 3, NARSize: 4}
		check("Missing", want(missing, read(func(e *Encoder) { e.Missing(missing) }).Missing(), opts))
		roots := []Root{{"/a", pathA}, {"{censored}", pathB}}
		check("Roots", want(roots, read(func(e *Encoder) { e.Roots(roots) }).Roots(), opts))
		subst := []Substitutable{{Path: pathA, Deriver: drvA, References: []nix.StorePath{pathB}, DownloadSize: 7, NARSize: 8}, {Path: pathB}}
		check("Substitutables", want(subst, read(func(e *Encoder) { e.Substitutables(subst) }).Substitutables(), opts))
		check("Substitutable", want(&subst[0], read(func(e *Encoder) { e.OptionalSubstitutable(&subst[0]) }).OptionalSubstitutable(pathA), opts))
		check("no Substitutable", want((*Substitutable)(nil), read(func(e *Encoder) { e.OptionalSubstitutable(nil) }).OptionalSubstitutable(pathA), opts))
		collected := &Collected{Paths: []string{"/nix/store/x"}, Freed: 9}
		check("Collected", want(collected, read(func(e *Encoder) { e.Collected(collected) }).Collected(), opts))
		check("Realisation", want(&realisation, read(func(e *Encoder) { e.OptionalRealisation(&realisation) }).OptionalRealisation(realisation.ID), opts))
		legacy := &LegacyRealisation{ID: legacyOut, OutPath: pathA}
		check("legacy Realisation", want(legacy, read(func(e *Encoder) { e.LegacyRealisations(legacy) }).LegacyRealisations(legacyOut), opts))

		ignore := cmp.FilterPath(func(path cmp.Path) bool {
			switch path.Last().String() {
			case ".TimesBuilt", ".Start", ".Stop":
				return !p.since(29)
			case ".Resources":
				return !p.since(37)
			case ".Outputs":
				return !p.since(28)
			}
			return false
		}, cmp.Ignore())
		sent := append([]nix.BuildResult{{Path: nix.Opaque(pathB), Status: nix.StatusCancelled}}, results...)
		check("BuildResults", want(results, read(func(e *Encoder) { e.KeyedBuildResults(sent) }).KeyedBuildResults(), opts, ignore))
	}
}

func TestStatuses(t *testing.T) {
	for _, c := range []struct {
		minor      uint64
		have, want nix.BuildStatus
	}{
		{38, nix.StatusHashMismatch, nix.StatusOutputRejected},
		{38, nix.StatusCancelled, nix.StatusMiscFailure},
		{38, nix.StatusNoSubstituters, nix.StatusNoSubstituters},
		{33, nix.StatusNoSubstituters, nix.StatusMiscFailure},
		{33, nix.StatusResolvesToAlreadyValid, nix.StatusAlreadyValid},
		{21, nix.StatusTimedOut, nix.StatusTimedOut},
	} {
		e := &Encoder{Protocol: Protocol{Version: 1<<8 | Version(c.minor)}}
		if got := e.status(c.have); got != c.want {
			t.Errorf("version %v: %v is sent as %v", e.Version, c.have, got)
		}
	}
}

func TestDerivedPathForms(t *testing.T) {
	drv, a := nix.DefaultStoreDir.Join(drvA), nix.DefaultStoreDir.Join(pathA)
	out := nix.Built(drvA, nix.OutputSpec{Names: []nix.OutputName{"out"}})
	for _, c := range []struct {
		minor uint64
		text  string
		want  nix.DerivedPath
		bad   bool
	}{
		{38, drv, nix.Opaque(drvA), false},
		{38, drv + "!*", nix.Built(drvA, nix.AllOutputs), false},
		{38, drv + "^out", out, false},
		{38, "/nix/store/" + string(drvA) + "/!out", out, false},
		{38, "/nix/store//" + string(pathA), nix.Opaque(pathA), false},
		{38, drv + "!out!*", nix.DerivedPath{Path: drvA, Via: []nix.OutputName{"out"}, Outputs: nix.AllOutputs}, false},
		{29, drv, nix.Built(drvA, nix.AllOutputs), false},
		{29, drv + "!", nix.Built(drvA, nix.AllOutputs), false},
		{29, drv + "!out", out, false},
		{29, a, nix.Opaque(pathA), false},
		{38, drv + "!", nix.DerivedPath{}, true},
		{38, a + "!out", nix.DerivedPath{}, true},
		{38, drv + "!a/b", nix.DerivedPath{}, true},
		{38, "", nix.DerivedPath{}, true},
		{38, "/nix/store/../" + string(pathA), nix.DerivedPath{}, true},
		{38, "result", nix.DerivedPath{}, true},
	} {
		p := Protocol{Dir: nix.DefaultStoreDir, Version: 1<<8 | Version(c.minor)}
		d := decoder(p, bytes.NewReader(encoded(t, p, func(e *Encoder) { e.Text(c.text) })))
		got := d.DerivedPath()
		if (d.Err() != nil) != c.bad {
			t.Errorf("%d: %s: %v", c.minor, c.text, d.Err())
		} else if diff := cmp.Diff(c.want, got, cmpopts.EquateEmpty()); !c.bad && diff != "" {
			t.Errorf("%d: %s (-want +got):\n%s", c.minor, c.text, diff)
		}
	}
}

func TestMessages(t *testing.T) {
	activities := []logline.Message{
		{Action: logline.Start, ID: 1, Level: logline.Info, Type: logline.Build, Text: "building", Parent: 9,
			Fields: []logline.Field{logline.Text("x"), logline.Int(1)}},
		{Action: logline.Result, ID: 1, Result: logline.BuildLogLine, Fields: []logline.Field{logline.Text("line")}},
		{Action: logline.Stop, ID: 1},
	}
	for _, p := range protocols() {
		for _, fail := range []bool{false, true} {
			data := encoded(t, p, func(e *Encoder) {
				e.Next("hello\n")
				for i := range activities {
					e.Activity(&activities[i])
				}
				e.AskForData(5)
				if fail {
					e.Error(&Error{Message: "no", Status: 100})
				} else {
					e.Last()
				}
			})
			var said string
			var seen []logline.Message
			var answer bytes.Buffer
			err := ReadMessages(decoder(p, bytes.NewReader(data)), encoder(p, &answer), Listener{
				Next:     func(text string) { said += text },
				Activity: func(m *logline.Message) { seen = append(seen, *m) },
				Data:     func(n int) ([]byte, error) { return []byte("abcdefgh")[:n], nil },
			})
			var failure *Error
			if errors.As(err, &failure) != fail || (err != nil) != fail {
				t.Errorf("version %v: %v", p.Version, err)
			} else if fail && !strings.Contains(failure.Message, "no") || fail && p.Version.Minor() < 26 && failure.Status != 100 {
				t.Errorf("version %v: %+v", p.Version, failure)
			}
			if diff := cmp.Diff(activities, seen); said != "hello\n" || diff != "" || answer.Len() != 16 {
				t.Errorf("version %v: %q, %d bytes of data (-want +got):\n%s", p.Version, said, answer.Len(), diff)
			}
		}
	}
}

func TestObjects(t *testing.T) {
	first, second := info(), info()
	second.Path = pathB
	var b bytes.Buffer
	w := NewObjectWriter(&b, nix.DefaultStoreDir, 2)
	io.WriteString(w.Next(first), "first's archive.")
	io.WriteString(w.Next(second), "second's.")
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	r := NewObjectReader(&b, nix.DefaultStoreDir, wire.Limits{})
	for _, want := range []struct {
		info    *nix.PathInfo
		archive string
	}{{first, "first's archive."}, {second, "second's."}} {
		got, archive, err := r.Next()
		if err != nil {
			t.Fatal(err)
		}
		text := make([]byte, len(want.archive))
		io.ReadFull(archive, text)
		if d := cmp.Diff(want.info, got, cmp.AllowUnexported(nix.Hash{})); d != "" || string(text) != want.archive {
			t.Errorf("%q (-want +got):\n%s", text, d)
		}
	}
	if _, _, err := r.Next(); err != io.EOF {
		t.Errorf("end: %v", err)
	}
}

func TestHandshake(t *testing.T) {
	for v := Oldest; v <= Newest+1; v++ {
		a, b := net.Pipe()
		p := Protocol{Dir: nix.DefaultStoreDir}
		sd, se, cd, ce := decoder(p, a), encoder(p, a), decoder(p, b), encoder(p, b)
		done := make(chan error, 1)
		go func() {
			err := AcceptHandshake(sd, se, Server{Version: Newest, Features: Features(), NixVersion: "2.34.8", Trust: NotTrusted})
			if err == nil {
				err = se.Flush()
			}
			done <- err
		}()
		s, err := Handshake(cd, ce, v, []string{RealisationWithPath, "unheard-of"})
		if err := errors.Join(err, <-done); err != nil {
			t.Fatalf("version %v: %v", v, err)
		}
		want := Protocol{Dir: nix.DefaultStoreDir, Version: min(v, Newest)}
		if v.Minor() >= 38 {
			want.Features = []string{RealisationWithPath}
		}
		if d := cmp.Diff([]Protocol{want, want, want, want}, []Protocol{sd.Protocol, se.Protocol, cd.Protocol, ce.Protocol}, cmpopts.EquateEmpty()); d != "" {
			t.Errorf("version %v (-want +got):\n%s", v, d)
		}
		if v.Minor() >= 35 && s.Trust != NotTrusted || v.Minor() >= 33 && s.NixVersion != "2.34.8" {
			t.Errorf("version %v: %+v", v, s)
		}
		a.Close()
		b.Close()
	}
}

func TestHandshakeRefuses(t *testing.T) {
	words := func(list ...uint64) []byte {
		return encoded(t, Protocol{}, func(e *Encoder) {
			for _, n := range list {
				e.Uint64(n)
			}
		})
	}
	for name, c := range map[string]struct {
		data []byte
		want error
	}{
		"another protocol":  {[]byte("GET / HTTP/1.1\r\n"), ErrProtocol},
		"old":               {words(clientMagic, 1<<8|9, 0, 0), ErrProtocol},
		"another major":     {words(clientMagic, 2<<8|38, 0, 0), ErrProtocol},
		"too many features": {words(clientMagic, uint64(Newest), 1<<60), wire.ErrLimit},
		"long feature":      {words(clientMagic, uint64(Newest), 1, 1<<40), wire.ErrLimit},
		"nothing":           {nil, io.ErrUnexpectedEOF},
	} {
		var said bytes.Buffer
		err := AcceptHandshake(decoder(Protocol{}, bytes.NewReader(c.data)), encoder(Protocol{}, &said), Server{Version: Newest})
		if !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
