package rpc

import (
	"slices"

	kilnv1 "github.com/kilnbuild/kiln/api/kiln/v1"
	"github.com/kilnbuild/kiln/nix"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// builderStarted notes that a builder runs, on another machine perhaps.
func (r *recorder) builderStarted(drv nix.StorePath, machine string) {
	r.builderEnded(drv) // it may begin again
	r.build.mu.Lock()
	defer r.build.mu.Unlock()
	r.build.info.Builders = append(r.build.info.Builders, &kilnv1.Builder{StorePath: r.s.cfg.StoreDir.Join(drv), Machine: machine, Started: timestamppb.Now()})
}

// builder changes what is known of a builder, if it runs.
func (r *recorder) builder(drv nix.StorePath, change func(*kilnv1.Builder)) {
	p := r.s.cfg.StoreDir.Join(drv)
	r.build.mu.Lock()
	defer r.build.mu.Unlock()
	for _, b := range r.build.info.Builders {
		if b.StorePath == p {
			change(b)
		}
	}
}

// builderEnded notes that a goal has ended, which may have had a builder.
func (r *recorder) builderEnded(drv nix.StorePath) {
	p := r.s.cfg.StoreDir.Join(drv)
	r.build.mu.Lock()
	defer r.build.mu.Unlock()
	r.build.info.Builders = slices.DeleteFunc(r.build.info.Builders, func(b *kilnv1.Builder) bool { return b.StorePath == p })
}

// sandboxKept notes that a sandbox was kept, if a notice says so.
func (r *recorder) sandboxKept(e nix.Event) {
	if e.Kept == "" {
		return
	}
	r.build.mu.Lock()
	defer r.build.mu.Unlock()
	r.build.info.KeptSandboxes = append(r.build.info.KeptSandboxes, &kilnv1.KeptSandbox{Id: e.Kept, StorePath: r.s.cfg.StoreDir.Join(e.Path)})
}
