package serve

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
	"github.com/kilnbuild/kiln/wire"
)

const (
	pathA nix.StorePath = "00000000000000000000000000000000-a"
	pathB nix.StorePath = "11111111111111111111111111111111-b"
	drvA  nix.StorePath = "22222222222222222222222222222222-a.drv"
)

var equal = cmp.Options{cmpopts.EquateEmpty(), cmp.AllowUnexported(nix.Hash{})}

func versions() []Version {
	var all []Version
	for v := Oldest; v <= Newest; v++ {
		all = append(all, v)
	}
	return all
}

func encoded(t testing.TB, v Version, write func(*Encoder)) []byte {
	t.Helper()
	var b bytes.Buffer
	e := NewEncoder(&b, nix.DefaultStoreDir)
	e.setVersion(v)
	write(e)
	if err := e.Flush(); err != nil {
		t.Fatalf("version %v: %v", v, err)
	}
	return b.Bytes()
}

func decoder(v Version, r io.Reader) *Decoder {
	d := NewDecoder(r, nix.DefaultStoreDir, wire.Limits{})
	d.setVersion(v)
	return d
}

func info() *nix.PathInfo {
	return &nix.PathInfo{
		Path: pathA, Deriver: drvA, NARHash: nix.HashBytes(nix.SHA256, []byte("x")), NARSize: 120,
		References: []nix.StorePath{pathA, pathB}, RegistrationTime: time.Unix(1700000000, 0), Ultimate: true,
		Signatures: []string{"key:c2ln"}, CA: nix.ContentAddress{Method: nix.Recursive, Hash: nix.HashBytes(nix.SHA256, []byte("y"))},
	}
}

// requests are one of each kind, as the version can say them.
func requests(v Version) []Request {
	o := BuildOptions{MaxSilentTime: 7 * time.Second, Timeout: time.Hour}
	if v.Minor() >= 2 {
		o.MaxLogSize = 1 << 40
	}
	if v.Minor() >= 3 {
		o.Repeats, o.EnforceDeterminism = 2, true
	}
	o.KeepFailed = v.Minor() >= 7
	return []Request{
		&QueryValidPaths{Lock: true, Paths: []nix.StorePath{pathA, pathB}},
		&QueryValidPaths{Substitute: true},
		&QueryPathInfos{Paths: []nix.StorePath{pathA}},
		&DumpStorePath{Path: pathA},
		&ImportPaths{},
		&ExportPaths{Paths: []nix.StorePath{pathB}},
		&BuildPaths{Options: o, Paths: []nix.DerivedPath{
			nix.Opaque(pathA), nix.Built(drvA, nix.AllOutputs), nix.Built(drvA, nix.OutputSpec{Names: []nix.OutputName{"dev", "out"}}),
		}},
		&QueryClosure{IncludeOutputs: true, Paths: []nix.StorePath{drvA}},
		&BuildDerivation{Drv: drvA, Options: o, Basic: &nix.BasicDerivation{
			Name: "a", System: "x86_64-linux", Builder: "/bin/sh", Args: []string{"-c", ""}, InputSrcs: []nix.StorePath{pathA},
			Outputs: map[nix.OutputName]nix.DerivationOutput{"out": {Kind: nix.InputAddressed, Path: pathB}}, Env: map[string]string{"out": "x"},
		}},
		&AddToStoreNar{Info: info()},
	}
}

func TestRequests(t *testing.T) {
	for _, v := range versions() {
		for _, r := range requests(v) {
			d := decoder(v, bytes.NewReader(encoded(t, v, func(e *Encoder) { WriteRequest(e, r) })))
			got, err := ReadRequest(d)
			if err != nil {
				t.Errorf("version %v, %v: %v", v, r.Command(), err)
				continue
			}
			if diff := cmp.Diff(r, got, equal); diff != "" {
				t.Errorf("version %v, %v (-written +read):\n%s", v, r.Command(), diff)
			}
			if err := d.Wait(); err != io.EOF {
				t.Errorf("version %v, %v: something is left, %v", v, r.Command(), err)
			}
		}
	}
}

func TestReplies(t *testing.T) {
	for _, v := range versions() {
		want := *info()
		want.RegistrationTime, want.Ultimate = time.Time{}, false
		if v.Minor() < 4 {
			want.NARHash, want.CA, want.Signatures = nix.Hash{}, nix.ContentAddress{}, nil
		}
		result := nix.BuildResult{Status: nix.StatusBuilt}
		if v.Minor() >= 3 {
			result.TimesBuilt, result.Start, result.Stop = 2, time.Unix(5, 0), time.Unix(9, 0)
		}
		if v.Minor() >= 6 {
			result.Outputs = map[nix.OutputName]nix.Realisation{
				"out": {ID: nix.DrvOutput{Drv: drvA, Output: "out"}, OutPath: pathA, Signatures: []string{"k:s"}},
			}
		}
		failure := BuildStatus{Exit: 100, Message: "it failed"}
		d := decoder(v, bytes.NewReader(encoded(t, v, func(e *Encoder) {
			e.Info(info())
			e.EndInfos()
			e.BuildStatus(BuildStatus{})
			e.BuildStatus(failure)
			e.BuildResult(&result)
		})))
		if diff := cmp.Diff(&want, d.Info(), equal); diff != "" {
			t.Errorf("version %v: info (-want +got):\n%s", v, diff)
		}
		if i := d.Info(); i != nil {
			t.Errorf("version %v: another info %+v", v, i)
		}
		if s := d.BuildStatus(); s != (BuildStatus{}) {
			t.Errorf("version %v: status %+v", v, s)
		}
		if s := d.BuildStatus(); s != failure {
			t.Errorf("version %v: status %+v", v, s)
		}
		got := d.BuildResult(drvA)
		if diff := cmp.Diff(result, got, equal); diff != "" {
			t.Errorf("version %v: result (-want +got):\n%s", v, diff)
		}
		if err := d.Wait(); err != io.EOF || d.Err() != nil {
			t.Errorf("version %v: %v, %v at the end", v, err, d.Err())
		}
	}
}

// TestBytes compares with what Nix 2.8 and 2.34 write.
func TestBytes(t *testing.T) {
	word := func(n byte) string { return string(append([]byte{n}, make([]byte, 7)...)) }
	text := func(s string) string { return word(byte(len(s))) + s + strings.Repeat("\x00", -len(s)&7) }
	i := &nix.PathInfo{Path: pathA, NARHash: nix.HashBytes(nix.SHA256, nil), NARSize: 200}
	full := nix.DefaultStoreDir.Join(pathA)
	for name, c := range map[string]struct {
		write func(*Encoder)
		want  string
	}{
		"info": {
			func(e *Encoder) { e.Info(i); e.EndInfos() },
			text(full) + text("") + word(0) + word(200) + word(200) + text(i.NARHash.String()) + text("") + word(0) + text(""),
		},
		"valid paths": {
			func(e *Encoder) { WriteRequest(e, &QueryValidPaths{Lock: true, Paths: []nix.StorePath{pathA}}) },
			word(1) + word(1) + word(0) + word(1) + text(full),
		},
		"build": {
			func(e *Encoder) {
				WriteRequest(e, &BuildPaths{Paths: []nix.DerivedPath{nix.Built(drvA, nix.AllOutputs)}})
			},
			word(6) + word(1) + text(nix.DefaultStoreDir.Join(drvA)) + strings.Repeat(word(0), 6),
		},
		"add": {
			func(e *Encoder) { WriteRequest(e, &AddToStoreNar{Info: i}) },
			word(9) + text(full) + text("") + text(i.NARHash.Base16()) + word(0) + word(0) + word(200) + word(0) + word(0) + text(""),
		},
	} {
		if got := string(encoded(t, 2<<8|7, c.write)); got != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

func TestHandshake(t *testing.T) {
	for _, c := range []struct{ server, client, want Version }{
		{Newest, Newest, Newest}, {Newest, 2<<8 | 5, 2<<8 | 5}, {2<<8 | 7, Newest, 2<<8 | 7}, {Newest, 2<<8 | 99, Newest},
	} {
		a, b := net.Pipe()
		type side struct {
			v   Version
			err error
		}
		accepted := make(chan side, 1)
		go func() {
			d, e := NewDecoder(a, nix.DefaultStoreDir, wire.Limits{}), NewEncoder(a, nix.DefaultStoreDir)
			err := AcceptHandshake(d, e, c.server)
			accepted <- side{d.Version, err}
		}()
		d, e := NewDecoder(b, nix.DefaultStoreDir, wire.Limits{}), NewEncoder(b, nix.DefaultStoreDir)
		err := Handshake(d, e, c.client)
		s := <-accepted
		if err != nil || s.err != nil || s.v != c.want || d.Version != c.want || e.Version != c.want {
			t.Errorf("%v with %v: %v and %v, %v and %v, want %v", c.server, c.client, s.v, d.Version, s.err, err, c.want)
		}
		a.Close()
		b.Close()
	}
}

func TestMismatch(t *testing.T) {
	banner := NewDecoder(strings.NewReader("Welcome to this machine!"), nix.DefaultStoreDir, wire.Limits{})
	if err := Handshake(banner, NewEncoder(io.Discard, nix.DefaultStoreDir), Newest); !errors.Is(err, ErrProtocol) || !strings.Contains(err.Error(), "shell") {
		t.Errorf("a shell that prints something: %v", err)
	}
	for name, write := range map[string]func(*Encoder){
		"another protocol": func(e *Encoder) { e.Uint64(0x6e697863); e.Uint64(uint64(Newest)) },
		"another major":    func(e *Encoder) { e.Uint64(clientMagic); e.Uint64(3 << 8) },
	} {
		d := NewDecoder(bytes.NewReader(encoded(t, Newest, write)), nix.DefaultStoreDir, wire.Limits{})
		if err := AcceptHandshake(d, NewEncoder(io.Discard, nix.DefaultStoreDir), Newest); !errors.Is(err, ErrProtocol) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestBadRequests(t *testing.T) {
	for name, c := range map[string]struct {
		write func(*Encoder)
		want  string
	}{
		"unknown":       {func(e *Encoder) { e.Uint64(10) }, "unknown serve command 10"},
		"no size":       {func(e *Encoder) { i := info(); i.NARSize = 0; WriteRequest(e, &AddToStoreNar{Info: i}) }, "size of its archive is missing"},
		"no derivation": {func(e *Encoder) { e.Uint64(8); e.StorePath(pathA) }, "is not a derivation"},
		"cut off":       {func(e *Encoder) { e.Uint64(3); e.Uint64(60) }, "unexpected EOF"},
		"long path":     {func(e *Encoder) { e.Uint64(3); e.Uint64(1 << 40) }, "over the limit"},
	} {
		_, err := ReadRequest(decoder(Newest, bytes.NewReader(encoded(t, Newest, c.write))))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want %q", name, err, c.want)
		}
	}
	d := decoder(Newest, bytes.NewReader(encoded(t, Newest, func(e *Encoder) {
		e.StorePath(pathA)
		e.OptionalPath("")
		e.PathSet(nil)
		e.Int64(0)
		e.Int64(0)
		e.Text("")
	})))
	if d.Info(); d.Err() == nil || !strings.Contains(d.Err().Error(), "hash of its archive is missing") {
		t.Errorf("an info without a hash: %v", d.Err())
	}
}
