package builtin

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
)

// Name is what the process is called (argv[0]) that runs Main.
const Name = "kiln-builtin"

var builders = map[string]func(*task) error{
	"builtin:fetchurl":       (*task).fetchurl,
	"builtin:buildenv":       (*task).buildenv,
	"builtin:unpack-channel": (*task).unpackChannel,
}

// Names lists the builders that there are, sorted.
func Names() []string { return slices.Sorted(maps.Keys(builders)) }

// Known tells whether there is a builder of that name.
func Known(name string) bool { _, ok := builders[name]; return ok }

// task is a builder at work.
type task struct {
	*Request
	ctx context.Context
	log io.Writer
}

func (t *task) warn(format string, args ...any) {
	fmt.Fprintf(t.log, "warning: "+format+"\n", args...)
}

// Main reads a Request and closes it, so that nothing that it fetches can be what it
// was told. Then it does what the Request says, and gives the exit code: 0, or 1
// after it has written to log what went wrong.
func Main(ctx context.Context, request io.ReadCloser, log io.Writer) int {
	r, err := DecodeRequest(request)
	request.Close()
	if err == nil {
		err = r.run(ctx, log)
	}
	if err != nil {
		fmt.Fprintf(log, "error: %v\n", err)
		return 1
	}
	return 0
}

func (r *Request) run(ctx context.Context, log io.Writer) error {
	build, ok := builders[r.Builder]
	if !ok {
		return fmt.Errorf("unsupported builtin builder '%s'", strings.TrimPrefix(r.Builder, "builtin:"))
	}
	return build(&task{Request: r, ctx: ctx, log: log})
}
