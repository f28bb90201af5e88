package build

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/kilnbuild/kiln/internal/rmtree"
	"github.com/kilnbuild/kiln/mountns"
	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/sandbox"
	"github.com/kilnbuild/kiln/store/local"
	"golang.org/x/sys/unix"
)

// keptRecord is what is known of a sandbox that was kept: a file <id>.json in the state
// directory. It is there, and only its owner can get at it, since whoever could change it
// would say what is mounted for whom. The builder's files are where they were, in the
// directory of build directories.
type keptRecord struct {
	Drv    nix.StorePath   `json:"drv"`
	Time   time.Time       `json:"time"`
	Top    string          `json:"top"`   // has the build directory, and outputs as far as there were any
	Build  string          `json:"build"` // the build directory
	Inputs []nix.StorePath `json:"inputs"`
	Spec   *sandbox.Spec   `json:"spec"` // that of the builder; Root is chosen when it is entered
}

const (
	keptExt       = ".json"
	maxKeptRecord = 64 << 20 // bytes
	keptIDLength  = 10
)

// keptDir has the records.
func keptDir(st *local.Store) string { return filepath.Join(st.StateDir(), "kiln", "sandboxes") }

// keptFile is the record of a sandbox. The id comes from anybody.
func keptFile(st *local.Store, id string) (string, error) {
	if len(id) != keptIDLength || strings.Trim(id, "abcdefghijklmnopqrstuvwxyz0123456789") != "" {
		return "", fmt.Errorf("no sandbox '%s' was kept: %w", id, nix.ErrNoSandbox)
	}
	return filepath.Join(keptDir(st), id+keptExt), nil
}

// keepSandbox keeps the sandbox of a builder that has ended, and tells how to enter it.
func (r *run) keepSandbox(result *Result) error {
	a, st := r.attempt, r.machine.Store
	spec := *r.spec
	spec.Live = "" // nobody answers there any more
	if err := r.keepOutputs(&spec); err != nil {
		return err
	}
	k := &keptRecord{Drv: a.DrvPath, Time: time.Now(), Top: r.work.top, Build: r.work.inner, Spec: &spec,
		Inputs: slices.Sorted(maps.Keys(a.Closure))}
	k.Inputs = append(k.Inputs, r.alsoVisible...)
	id := strings.ToLower(rand.Text()[:keptIDLength])
	if err := writeKept(st, id, k); err != nil {
		return fmt.Errorf("keep the sandbox of '%s': %w", a.DrvPath, err)
	}
	r.work.keep = true
	result.KeptSandbox = id
	a.Log.Event(nix.Event{Kind: nix.EventNotice, Path: a.DrvPath, Kept: id,
		Message: fmt.Sprintf("note: keeping the sandbox of '%s'; to enter it, run: kiln enter %s", st.Dir().Join(a.DrvPath), id)})
	return nil
}

// keepOutputs moves what there is of the outputs to the build directory, and adds it to
// the mounts. On another file system it cannot be moved, and goes with the rest.
func (r *run) keepOutputs(spec *sandbox.Spec) error {
	if r.isolation != sandbox.Full {
		return nil
	}
	spec.Mounts = slices.Clone(spec.Mounts)
	dir := filepath.Join(r.work.top, "outputs")
	for _, p := range slices.Sorted(maps.Values(r.scratch)) {
		made, kept := r.actual(p), filepath.Join(dir, string(p))
		if !exists(made) {
			continue
		}
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("keep outputs: %w", err)
		}
		switch err := os.Rename(made, kept); {
		case errors.Is(err, syscall.EXDEV):
			continue
		case err != nil:
			return fmt.Errorf("keep outputs: %w", err)
		}
		spec.Mounts = append(spec.Mounts, mountns.Mount{Kind: mountns.Bind, Source: kept, Target: r.machine.Store.Dir().Join(p), Writable: true, Devices: true})
	}
	return nil
}

// writeKept writes a record.
func writeKept(st *local.Store, id string, k *keptRecord) error {
	text, err := json.Marshal(k)
	if err != nil {
		return err
	}
	if len(text) > maxKeptRecord {
		return fmt.Errorf("its record has %d bytes, more than %d", len(text), maxKeptRecord)
	}
	// Others may have to get at what else is beside it.
	if err := os.MkdirAll(filepath.Dir(keptDir(st)), 0o755); err != nil {
		return err
	}
	if err := os.Mkdir(keptDir(st), 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	file, err := keptFile(st, id)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if err = errors.Join(err, f.Close()); err != nil {
		os.Remove(file)
	}
	return err
}

// openKept reads a record and locks it; guests share it, and who discards it has it
// alone.
func openKept(st *local.Store, id string, how int) (k *keptRecord, unlock func(), err error) {
	name, err := keptFile(st, id)
	if err != nil {
		return nil, nil, err
	}
	f, err := os.OpenFile(name, os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil, fmt.Errorf("no sandbox '%s' is kept: %w", id, nix.ErrNoSandbox)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("read the record of sandbox '%s': %w", id, err)
	}
	defer func() {
		if err != nil {
			f.Close()
		}
	}()
	switch err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB); {
	case errors.Is(err, unix.EWOULDBLOCK) && how == unix.LOCK_EX:
		return nil, nil, fmt.Errorf("discard sandbox '%s': somebody is in it", id)
	case errors.Is(err, unix.EWOULDBLOCK):
		return nil, nil, fmt.Errorf("sandbox '%s' is being discarded: %w", id, nix.ErrNoSandbox)
	case err != nil:
		return nil, nil, fmt.Errorf("lock sandbox '%s': %w", id, err)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxKeptRecord+1))
	k = &keptRecord{}
	if err == nil && len(text) > maxKeptRecord {
		err = errors.New("it is too long")
	}
	if err == nil {
		err = json.Unmarshal(text, k)
	}
	if err == nil && (k.Spec == nil || !filepath.IsAbs(k.Top)) {
		err = errors.New("it is incomplete")
	}
	if err != nil {
		return nil, nil, fmt.Errorf("read the record of sandbox '%s': %w", id, err)
	}
	return k, func() { f.Close() }, nil
}

// KeptSandboxes lists the sandboxes that were kept in a store, the oldest first. Records
// that cannot be read are left out.
func KeptSandboxes(st *local.Store) ([]nix.KeptSandbox, error) {
	entries, err := os.ReadDir(keptDir(st))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("list sandboxes that are kept: %w", err)
	}
	var list []nix.KeptSandbox
	for _, e := range entries {
		id, ok := strings.CutSuffix(e.Name(), keptExt)
		if !ok {
			continue
		}
		k, unlock, err := openKept(st, id, unix.LOCK_SH)
		if err != nil {
			continue
		}
		unlock()
		list = append(list, nix.KeptSandbox{ID: id, Drv: k.Drv, Time: k.Time, BuildDir: k.Build})
	}
	slices.SortFunc(list, func(a, b nix.KeptSandbox) int { return a.Time.Compare(b.Time) })
	return list, nil
}

// DiscardSandbox removes a sandbox that was kept in a store, with the builder's files. The
// error wraps nix.ErrNoSandbox if there is none of that id.
func DiscardSandbox(st *local.Store, id string) error {
	k, unlock, err := openKept(st, id, unix.LOCK_EX)
	if err != nil {
		return err
	}
	defer unlock()
	if err := rmtree.RemoveTree(k.Top); err != nil {
		return fmt.Errorf("discard sandbox '%s': %w", id, err)
	}
	name, err := keptFile(st, id)
	if err == nil {
		err = os.Remove(name)
	}
	if err != nil {
		return fmt.Errorf("discard sandbox '%s': %w", id, err)
	}
	return nil
}

// Discard implements nix.Sandboxes.
func (m *Machine) Discard(_ context.Context, id string) error { return DiscardSandbox(m.Store, id) }

// visitKept starts a program in the place of a builder that has failed, in its sandbox as
// it has left it.
func (m *Machine) visitKept(ctx context.Context, v *nix.Visit) (end nix.VisitEnd, err error) {
	k, unlock, err := openKept(m.Store, v.Kept, unix.LOCK_SH)
	if err != nil {
		return end, err
	}
	defer unlock()
	if !exists(k.Build) {
		return end, fmt.Errorf("the directory '%s' of sandbox '%s' is gone, and there is nothing to enter; `kiln enter --discard %[2]s` forgets it: %w", k.Build, v.Kept, nix.ErrNoSandbox)
	}
	lease := m.Store.Lease(nil)
	defer func() { err = errors.Join(err, lease.Close()) }()
	if err := inputsThere(ctx, lease, k.Inputs); err != nil {
		return end, fmt.Errorf("enter sandbox '%s': %w", v.Kept, err)
	}
	user, err := m.Users.AcquireAgain(ctx, k.Spec.Users.OutsideUID, func() {
		if v.Waiting != nil {
			v.Waiting(fmt.Sprintf("waiting for build user %d, who is building something else", k.Spec.Users.OutsideUID))
		}
	})
	if err != nil {
		return end, fmt.Errorf("enter sandbox '%s': %w", v.Kept, err)
	}
	defer user.Release()

	spec, command := *k.Spec, commandIn(k.Spec, v.Command)
	spec.Path, spec.Args, spec.Terminal = command[0], words(command), v.Terminal != nil
	if spec.Isolation == sandbox.Full {
		spec.Root = filepath.Join(k.Top, "root-"+rand.Text()[:8])
		if err := m.Store.Note(local.TransientTree, spec.Root); err != nil {
			return end, err
		}
	}
	cleanUp := sync.OnceValue(func() (err error) {
		defer user.Release()
		if spec.Isolation == sandbox.Full {
			return errors.Join(rmtree.RemoveTree(spec.Root), m.Store.Done(local.TransientTree, spec.Root))
		}
		if !user.Own {
			err = m.Launcher.KillUser(context.WithoutCancel(ctx), user.UID)
		}
		return err
	})
	end, err = converse(ctx, v, command, user.UID, func(stdio sandbox.Stdio) (*sandbox.Process, error) {
		return m.Launcher.Start(ctx, &spec, stdio)
	}, func() { cleanUp() })
	return end, errors.Join(err, cleanUp())
}

// inputsThere keeps store objects from being collected, and checks that none was.
func inputsThere(ctx context.Context, st *local.Store, inputs []nix.StorePath) error {
	if err := st.AddTempRoot(ctx, inputs...); err != nil {
		return err
	}
	valid, err := st.ValidPaths(ctx, inputs)
	if err != nil {
		return err
	}
	there := make(map[nix.StorePath]bool, len(valid))
	for _, p := range valid {
		there[p] = true
	}
	for _, p := range inputs {
		if !there[p] {
			return fmt.Errorf("'%s', which the builder saw, is not in the store any more: build again with --keep-sandbox: %w", st.Dir().Join(p), nix.ErrNoSandbox)
		}
	}
	return nil
}
