package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	kilnv1 "github.com/kilnbuild/kiln/api/kiln/v1"
	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/rpc"
)

// serviceItem measures kiln alone: what the executor service adds to a build, how busy it
// keeps the slots, what watchers take, and what it takes with nothing to do.
const serviceItem = "service"

// What the service must not exceed at scale 1.
const (
	aimOverGRPC   = 1.3       // times the same build by kiln build
	aimThroughput = 0.9       // of that of kiln build
	aimWatchers   = 128 << 20 // bytes more with all watchers than with nothing to do
	aimIdle       = 32 << 20  // bytes with nothing to do
)

const (
	serviceOneByOne = 100  // builds, one after the other
	serviceQueued   = 1000 // builds, all at once
	serviceJobs     = 2
	watchers        = 500
	watchedLines    = 5000
)

// A hosted is a daemon that offers the service, with a client.
type hosted struct {
	*process
	*rpc.Client
	pid int
}

// host starts a daemon for a store.
func (b *bench) host(kiln *subject, store string, jobs int) (*hosted, error) {
	b.copies++
	nixSocket, address := b.path(fmt.Sprintf("socket-%d", b.copies)), "unix://"+b.path(fmt.Sprintf("executor-%d", b.copies))
	words := kiln.build(store, item{jobs: jobs}, nil) // has the options that all have
	words = append([]string{kiln.program[0], "daemon", "--listen", address}, words[len(kiln.program):]...)
	p, err := b.launch("", []string{"NIX_DAEMON_SOCKET_PATH=" + nixSocket}, nil, words...)
	if err != nil {
		return nil, err
	}
	h := &hosted{process: p}
	if h.pid, err = awaitDaemon(nixSocket, p.ended); err == nil {
		var a rpc.Address
		if a, err = rpc.ParseAddress(address); err == nil {
			h.Client, err = rpc.Dial(context.Background(), a, nil)
		}
	}
	if err != nil {
		_, serr := p.stop()
		return nil, errors.Join(err, serr)
	}
	return h, nil
}

// end ends the daemon and tells what it took.
func (h *hosted) end() (cost, error) {
	err := h.Close()
	c, serr := h.stop()
	return c, errors.Join(err, serr)
}

// one has one derivation built.
func (h *hosted) one(ctx context.Context, drv string) error {
	p, err := h.Dir().Parse(drv)
	if err != nil {
		return err
	}
	results, err := h.Build(ctx, &nix.BuildRequest{Paths: []nix.DerivedPath{nix.Built(p, nix.AllOutputs)}})
	if err == nil && results[0].Status != nix.StatusBuilt {
		err = fmt.Errorf("%s: %s %s", drv, results[0].Status, results[0].Message)
	}
	return err
}

// all has derivations built, each asked for by itself, at the same time.
func (h *hosted) all(ctx context.Context, drvs []string) error {
	errs := make([]error, len(drvs))
	var asking sync.WaitGroup
	for i, drv := range drvs {
		asking.Go(func() { errs[i] = h.one(ctx, drv) })
	}
	asking.Wait()
	return errors.Join(errs...)
}

// serviceFigures are medians, in this order: one build by kiln build and over gRPC, all
// builds both ways, memory with nothing to do.
type serviceFigures struct{ direct, remote, directAll, remoteAll, idle []cost }

// serviceNote measures the service.
func (b *bench) serviceNote(kiln *subject) (string, bool, error) {
	f, err := b.fixture(item{name: serviceItem, expr: "trivial", size: serviceQueued})
	if err != nil {
		return "", false, err
	}
	defer removeTree(f.store)
	many := len(f.drvs)
	few := min(many, serviceOneByOne)
	var all serviceFigures
	for round := range min(b.rounds, 3) {
		if err := all.add(b, kiln, f, few); err != nil {
			return "", false, err
		}
		fmt.Fprintf(os.Stderr, "%-12s round %d\n", serviceItem, round+1)
	}
	grown, lines, err := b.watched(kiln)
	if err != nil {
		return "", false, err
	}
	one, oneRemote := median(all.direct, wall), median(all.remote, wall)
	every, everyRemote := median(all.directAll, wall), median(all.remoteAll, wall)
	over, throughput, idle := ratio(float64(oneRemote), float64(one)), ratio(float64(every), float64(everyRemote)), median(all.idle, rss)
	var text strings.Builder
	fmt.Fprintf(&text, "\n%s: a trivial build takes %.1f ms over gRPC, one after the other, and %.1f ms by kiln build -j1: %.2f times, aim of %.1f: %s (CPU %.1f and %.1f ms)\n", serviceItem,
		milliseconds(oneRemote, few), milliseconds(one, few), over, aimOverGRPC, met(over <= aimOverGRPC), milliseconds(median(all.remote, cpu), few), milliseconds(median(all.direct, cpu), few))
	fmt.Fprintf(&text, "%s: %d builds asked for at once take %.0f ms, and %.0f ms by kiln build -j%d: %.2f of its throughput, aim of %.1f: %s (CPU %.0f and %.0f ms)\n", serviceItem,
		many, milliseconds(everyRemote, 1), milliseconds(every, 1), serviceJobs, throughput, aimThroughput, met(throughput >= aimThroughput), milliseconds(median(all.remoteAll, cpu), 1), milliseconds(median(all.directAll, cpu), 1))
	fmt.Fprintf(&text, "%s: %d watchers of one log of %d lines got every one, and took %.1f MiB: aim of %d: %s\n", serviceItem,
		watchers, lines, mebibytes(grown), aimWatchers>>20, met(grown <= aimWatchers))
	fmt.Fprintf(&text, "%s: with nothing to do the daemon has %.1f MiB: aim of %d: %s\n", serviceItem, mebibytes(idle), aimIdle>>20, met(idle <= aimIdle))
	ok := over <= aimOverGRPC && throughput >= aimThroughput && grown <= aimWatchers && idle <= aimIdle
	return text.String(), ok || b.scale != 1, nil
}

// add measures everything once, in turns.
func (fs *serviceFigures) add(b *bench, kiln *subject, f *fixture, few int) error {
	for _, part := range []struct {
		drvs           []string
		jobs           int
		direct, remote *[]cost
		ask            func(*hosted, []string) error
	}{
		{f.drvs[:few], 1, &fs.direct, &fs.remote, func(h *hosted, drvs []string) error {
			for _, drv := range drvs {
				if err := h.one(context.Background(), drv); err != nil {
					return err
				}
			}
			return nil
		}},
		{f.drvs, serviceJobs, &fs.directAll, &fs.remoteAll, func(h *hosted, drvs []string) error { return h.all(context.Background(), drvs) }},
	} {
		c, _, err := b.once(kiln, item{jobs: part.jobs}, &fixture{f.store, part.drvs}, false)
		if err != nil {
			return err
		}
		*part.direct = append(*part.direct, c)
		store, remove, err := b.freshCopy(f.store)
		if err != nil {
			return err
		}
		h, err := b.host(kiln, store, part.jobs)
		if err != nil {
			remove()
			return err
		}
		fs.idle = append(fs.idle, cost{RSS: kibibytes(h.pid, "status", "VmRSS:")})
		begin := time.Now()
		err = part.ask(h, part.drvs)
		took := time.Since(begin)
		whole, eerr := h.end()
		remove()
		if err := errors.Join(err, eerr); err != nil {
			return err
		}
		whole.Wall = took
		*part.remote = append(*part.remote, whole)
	}
	return nil
}

// watched has many watch one build with so many lines, and tells how much memory the daemon
// took more than with nothing to do.
func (b *bench) watched(kiln *subject) (grown int64, lines int, err error) {
	it := item{name: "watched", expr: "noisy", size: watchedLines}
	lines = it.scaled(b.scale)
	f, err := b.fixture(it)
	if err != nil {
		return 0, 0, err
	}
	defer removeTree(f.store)
	h, err := b.host(kiln, f.store, 1)
	if err != nil {
		return 0, 0, err
	}
	before := kibibytes(h.pid, "status", "VmRSS:")
	err = h.watch(f.drvs[0], lines)
	after := kibibytes(h.pid, "status", "VmHWM:")
	_, eerr := h.end()
	return after - before, lines, errors.Join(err, eerr)
}

// watch begins a build and counts what its watchers get.
func (h *hosted) watch(drv string, lines int) error {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	m := &kilnv1.BuildRequest{Id: "watched", Detached: true, Targets: []*kilnv1.Target{{What: &kilnv1.Target_StorePath{StorePath: drv}}}}
	stream, err := h.Executor.Build(ctx, m)
	if err == nil {
		_, err = stream.Recv()
	}
	if err != nil {
		return err
	}
	errs := make([]error, watchers)
	var watching sync.WaitGroup
	for i := range watchers {
		watching.Go(func() {
			stream, err := h.Executor.WatchBuild(ctx, &kilnv1.WatchBuildRequest{Id: m.Id, LogOnly: true})
			got := 0
			for err == nil {
				var e *kilnv1.BuildEvent
				if e, err = stream.Recv(); err == nil {
					got += strings.Count(string(e.GetLog().GetData()), "\n")
				}
				if e.GetEnded() != nil {
					break
				}
			}
			if err == nil && got != lines {
				err = fmt.Errorf("a watcher got %d lines of %d", got, lines)
			}
			errs[i] = err
		})
	}
	watching.Wait()
	return errors.Join(errs...)
}
