package hook

import (
	"bytes"
	"maps"
	"slices"

	"github.com/kilnbuild/kiln/wire"
)

// What is told to a build hook is in the form of Nix's protocols.

// encoded is what write writes.
func encoded(write func(*wire.Writer)) []byte {
	var b bytes.Buffer
	w := wire.NewWriter(&b)
	write(w)
	// Nothing can fail in memory.
	w.Flush()
	return b.Bytes()
}

// writeSettings writes what a build hook is told first.
func writeSettings(w *wire.Writer, settings map[string]string) {
	for _, name := range slices.Sorted(maps.Keys(settings)) {
		w.Bool(true)
		w.Text(name)
		w.Text(settings[name])
	}
	w.Bool(false)
}

// writeTry writes a question.
func writeTry(w *wire.Writer, r *Request) {
	w.Text("try")
	w.Bool(r.Willing)
	w.Text(r.System)
	w.Text(r.Drv)
	w.TextSet(r.Features)
}

// writeWork writes what a hook is told once it has accepted.
func writeWork(w *wire.Writer, r *Request) {
	w.TextSet(r.Inputs)
	w.TextSet(r.Outputs)
}
