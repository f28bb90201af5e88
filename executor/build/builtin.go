package build

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/kilnbuild/kiln/executor/builtin"
	"github.com/kilnbuild/kiln/mountns"
	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/sandbox"
)

// FetchSettings are what builtin:fetchurl is told, and the files that some of it
// is read from before each attempt. One that is missing counts as empty.
type FetchSettings struct {
	builtin.FetchSettings
	NetrcFile   string
	SSLCertFile string
}

// insideSelf is where a builtin builder's sandbox shows its program.
const insideSelf = "/builtin"

// builtinSurroundings is what surround is for builders that are programs: a
// builtin builder finds nothing in its environment, and gets what it has to know
// as a request.
func builtinSurroundings() *surroundings {
	return &surroundings{args: []string{builtin.Name}}
}

// describeBuiltin makes the program of a builtin builder ours, in a sandbox that is
// that of any other builder.
func (m *Machine) describeBuiltin(spec *sandbox.Spec) {
	if spec.Isolation != sandbox.Full {
		spec.Path = m.Self
		return
	}
	spec.Path = insideSelf
	spec.Mounts = append(spec.Mounts, mountns.Mount{Kind: mountns.Bind, Source: m.Self, Target: insideSelf})
}

// builtinRequest puts together what a builtin builder is told, encoded.
func (r *run) builtinRequest(buildDir string) ([]byte, error) {
	drv, dir := r.attempt.Drv, r.machine.Store.Dir()
	kind, err := drv.Kind()
	if err != nil {
		return nil, err
	}
	request := &builtin.Request{
		Builder: drv.Builder, Env: drv.Env, Outputs: make(map[string]string, len(r.scratch)), TempDir: buildDir,
		Impure: kind == nix.Impure,
	}
	for name, p := range r.scratch {
		request.Outputs[string(name)] = dir.Join(p)
	}
	if !kind.IsPure() {
		if request.Fetch, err = r.settings.Fetch.read(); err != nil {
			return nil, err
		}
	}
	if kind == nix.Fixed {
		out := drv.Outputs["out"]
		request.Fixed = &builtin.FixedHash{Flat: out.Method == nix.Flat, Algorithm: out.Algorithm.String(), Base16: out.Hash.Base16()}
	}
	var encoded bytes.Buffer
	if err := request.Encode(&encoded); err != nil {
		return nil, err
	}
	return encoded.Bytes(), nil
}

// read reads the files.
func (s *FetchSettings) read() (builtin.FetchSettings, error) {
	told := s.FetchSettings
	netrc, err := readSetting("netrc-file", s.NetrcFile)
	if err != nil {
		return told, err
	}
	told.Netrc = string(netrc)
	told.CACertificates, err = readSetting("ssl-cert-file", s.SSLCertFile)
	return told, err
}

func readSetting(setting, name string) ([]byte, error) {
	if name == "" {
		return nil, nil
	}
	text, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", setting, err)
	}
	return text, nil
}

// feed gives a program something to read as its standard input, which the caller
// closes once the program has it. A program that does not read all of it is no
// error.
func feed(text []byte) (*os.File, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	go func() {
		defer w.Close()
		// Fails when the other end is closed, which is when the program has ended.
		_, _ = w.Write(text)
	}()
	return r, nil
}
