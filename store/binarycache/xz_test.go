package binarycache

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
	"testing/iotest"
)

// TestXZ has the program unpack what it has packed, and what is broken.
func TestXZ(t *testing.T) {
	if path, _ := xzProgram(); path == "" {
		t.Skip(errNoXZ)
	}
	data := make([]byte, 3<<20)
	for i := range data {
		data[i] = byte(rand.IntN(4))
	}
	var packed bytes.Buffer
	w, err := compressor{method: "xz", level: 0}.writeXZ(t.Context(), &packed)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	whole := packed.Bytes()
	unpack := func(r io.Reader) ([]byte, error) {
		t.Helper()
		x, err := readXZ(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		defer x.Close()
		return io.ReadAll(x)
	}
	if got, err := unpack(bytes.NewReader(whole)); err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	z, err := decompress("xz", bytes.NewReader(whole))
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(z); err != nil || !bytes.Equal(got, data) {
		t.Errorf("without the program: %d bytes, %v", len(got), err)
	}
	broken := bytes.Clone(whole)
	broken[len(broken)/2] ^= 1
	lost := errors.New("the line is lost")
	for name, c := range map[string]struct {
		r    io.Reader
		want string
	}{
		"cut off":      {bytes.NewReader(whole[:len(whole)/2]), "xz: "},
		"corrupt":      {bytes.NewReader(broken), "xz: "},
		"something":    {strings.NewReader(strings.Repeat("x", 1000)), "xz: "},
		"nothing":      {strings.NewReader(""), "xz: "},
		"broken input": {io.MultiReader(bytes.NewReader(whole[:1000]), iotest.ErrReader(lost)), lost.Error()},
	} {
		if _, err := unpack(c.r); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	// Nobody reads to the end.
	x, err := readXZ(t.Context(), bytes.NewReader(whole))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := x.Read(make([]byte, 1)); err != nil {
		t.Error(err)
	}
	x.Close()
	// Or it is cancelled while nothing comes.
	ctx, cancel := context.WithCancel(t.Context())
	r, end := io.Pipe()
	if x, err = readXZ(ctx, r); err != nil {
		t.Fatal(err)
	}
	cancel()
	end.Close()
	if _, err := io.ReadAll(x); err == nil {
		t.Error("what was cancelled is complete")
	}
	x.Close()
}
