package remote_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"

	"github.com/kilnbuild/kiln/daemon"
	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/store"
	"github.com/kilnbuild/kiln/store/remote"
	"github.com/kilnbuild/kiln/store/storetest"
	"github.com/kilnbuild/kiln/wire/serve"
)

// legacyOf is a store behind kiln's own server, in a version of the protocol.
func legacyOf(t testing.TB, cfg daemon.LegacyConfig, v serve.Version) *remote.Legacy {
	t.Helper()
	s, err := remote.OpenLegacy(remote.LegacyOptions{Dial: serveLegacy(t, cfg), Name: "ssh://there", MaxConnections: 2, Version: v})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

// serveLegacy gives a Dial to kiln's own server. Connections are served until the test
// ends.
func serveLegacy(t testing.TB, cfg daemon.LegacyConfig) func(context.Context) (io.ReadWriteCloser, error) {
	return serveBy(t, func(ctx context.Context, conn net.Conn) { daemon.ServeLegacy(ctx, conn, cfg) })
}

func TestLegacySuite(t *testing.T) {
	for _, v := range []serve.Version{serve.WithNarSize, 2<<8 | 7, serve.Newest} {
		t.Run(v.String(), func(t *testing.T) {
			storetest.Run(t, func(t *testing.T) store.Store {
				return legacyOf(t, daemon.LegacyConfig{Store: storetest.NewMemory(nix.DefaultStoreDir), Write: true}, v)
			})
		})
	}
}

func TestLegacyCopies(t *testing.T) {
	from, to := storetest.NewMemory(nix.DefaultStoreDir), storetest.NewMemory(nix.DefaultStoreDir)
	var all []storetest.Object
	var refs []nix.StorePath
	for i := range 100 {
		o := storetest.Built(t, from.Dir(), fmt.Sprintf("o%d", i), false, refs...)
		refs = []nix.StorePath{o.Info.Path}
		storetest.Add(t, from, o)
		all = append(all, o)
	}
	a := legacyOf(t, daemon.LegacyConfig{Store: from}, 0)
	b := legacyOf(t, daemon.LegacyConfig{Store: to, Write: true}, 0)
	if err := store.CopyClosure(t.Context(), a, b, refs, store.CopyOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, o := range all {
		storetest.Check(t, to, o)
	}
	// Who serves without --write takes nothing.
	readOnly := legacyOf(t, daemon.LegacyConfig{Store: storetest.NewMemory(nix.DefaultStoreDir)}, 0)
	if err := store.CopyClosure(t.Context(), from, readOnly, refs, store.CopyOptions{}); err == nil {
		t.Error("a server that is to be read only took an object")
	}
	// What cannot be asked for is said, and nothing is done.
	if err := store.CopyClosure(t.Context(), from, b, refs, store.CopyOptions{CheckSignatures: true, Repair: true}); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("repair: %v", err)
	}
}

func TestLegacyBuild(t *testing.T) {
	for _, v := range []serve.Version{serve.WithNarSize, 2<<8 | 7, serve.Newest} {
		t.Run(v.String(), func(t *testing.T) {
			m := storetest.NewMemory(nix.DefaultStoreDir)
			works, worksDrv := drvOf(t, nix.DefaultStoreDir, "works", nil)
			fails, _ := drvOf(t, nix.DefaultStoreDir, "fails", nil)
			_, brought := drvOf(t, nix.DefaultStoreDir, "brought", nil)
			storetest.Add(t, m, works, fails)
			var said bytes.Buffer
			s := legacyOf(t, daemon.LegacyConfig{Store: m, Builder: builderOf(t, m), Write: true, Log: &said}, v)
			drv := nix.StorePath("00000000000000000000000000000000-brought.drv")
			results, err := s.Build(t.Context(), &nix.BuildRequest{
				Paths: []nix.DerivedPath{nix.Built(works.Info.Path, nix.AllOutputs), nix.Built(fails.Info.Path, nix.AllOutputs), nix.Built(drv, nix.AllOutputs)},
				Basic: map[nix.StorePath]*nix.BasicDerivation{drv: &brought.BasicDerivation},
			})
			if err != nil {
				t.Fatal(err)
			}
			if r := results[0]; r.Status != nix.StatusBuilt || r.Outputs["out"].OutPath != worksDrv.Outputs["out"].Path {
				t.Errorf("what works: %+v", r)
			}
			if r := results[1]; r.Status != nix.StatusPermanentFailure || r.Message != "it fails on purpose" {
				t.Errorf("what fails: %+v", r)
			}
			if r := results[2]; r.Status != nix.StatusBuilt || r.TimesBuilt != 1 || r.Outputs["out"].OutPath != brought.Outputs["out"].Path {
				t.Errorf("what is brought along: %+v", r)
			}
			if want := strings.Repeat("first line\nwarning: mind this\nsecond\n", 3); said.String() != want {
				t.Errorf("said %q, want %q", said.String(), want)
			}
		})
	}
}

func TestLegacyMismatch(t *testing.T) {
	l, err := net.Listen("unix", filepath.Join(t.TempDir(), "socket"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			io.WriteString(c, "Welcome! You have no mail.\n")
			io.Copy(io.Discard, c)
			c.Close()
		}
	}()
	s, err := remote.OpenLegacy(remote.LegacyOptions{Dial: remote.Unix(l.Addr().String()), Name: "ssh://there"})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if _, err := s.Ping(t.Context()); !errors.Is(err, serve.ErrProtocol) || !strings.Contains(err.Error(), "connect to ssh://there") {
		t.Errorf("error %v", err)
	}
}
