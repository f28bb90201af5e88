package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net"
	"os"
	"sync"
	"time"

	"github.com/kilnbuild/kiln/daemon/socket"
	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/nar"
	"github.com/kilnbuild/kiln/store"
	"github.com/kilnbuild/kiln/store/local"
	"github.com/kilnbuild/kiln/wire"
	"github.com/kilnbuild/kiln/wire/worker"
)

// An errand is work that a client has a daemon do: what is measured is the daemon, and how
// long the client waits for it.
type errand struct {
	store string // a seed, of which each daemon has a copy; "" for an empty one
	// run does it, at a daemon that has that store. It calls look before clients leave.
	run func(socket, store string, look func()) error
	// often looks also while it runs: the client is a program.
	often bool
	// result is what must be the same for all.
	result func(store string) (map[string]string, error)
	remove func()
}

// measureErrand is measure for an item with an errand.
func (b *bench) measureErrand(it item, subjects []*subject) row {
	r := row{item: it, unit: it.unit(b.scale), units: it.scaled(b.scale), costs: map[string][]cost{}}
	e, err := it.errand(b, it.scaled(b.scale))
	if err != nil {
		r.failure = fmt.Errorf("fixture: %w", err)
		return r
	}
	defer e.remove()
	var want map[string]string
	for round := range min(b.rounds, max(1, it.rounds)) {
		for i := range subjects {
			s := subjects[(i+round)%len(subjects)]
			c, got, err := b.send(s, e)
			if err == nil && want != nil && !maps.Equal(want, got) {
				err = fmt.Errorf("the result is not the other daemon's: %d instead of %d", len(got), len(want))
			}
			if err != nil {
				r.failure = fmt.Errorf("%s: %w", s.name, err)
				return r
			}
			want = got
			r.costs[s.name] = append(r.costs[s.name], c)
			fmt.Fprintf(os.Stderr, "%-12s round %d %-10s %v\n", it.name, round+1, s.name, c.Wall.Round(100*time.Microsecond))
		}
	}
	return r
}

// send has one daemon do the errand.
func (b *bench) send(s *subject, e *errand) (cost, map[string]string, error) {
	b.copies++
	dir := b.path(fmt.Sprintf("store-%d", b.copies))
	defer removeTree(dir)
	if e.store != "" {
		if _, err := b.output("cp", "-a", e.store, dir); err != nil {
			return cost{}, nil, err
		}
	}
	path := b.path(fmt.Sprintf("socket-%d", b.copies))
	words := []string{"nix-daemon", "--store", dir}
	if s.isKiln() {
		words = []string{s.program[0], "daemon", "--store", dir}
	}
	running, err := b.launch(s.root, []string{"NIX_DAEMON_SOCKET_PATH=" + path}, nil, words...)
	if err != nil {
		return cost{}, nil, err
	}
	pid, err := awaitDaemon(path, running.ended)
	w := &watch{pid: pid, cpu: make(map[int]time.Duration)}
	var wall time.Duration
	var idle int64
	if err == nil {
		idle = kibibytes(pid, "status", "VmRSS:")
		stop := func() {}
		if e.often {
			stop = w.every(50 * time.Millisecond)
		}
		begin := time.Now()
		err = e.run(path, dir, w.look)
		wall = time.Since(begin)
		stop()
	}
	c, serr := running.stop()
	os.Remove(path)
	if err := errors.Join(err, serr); err != nil {
		return cost{}, nil, err
	}
	c.Wall, c.Idle = wall, idle
	if !s.isKiln() { // whose other processes are waited for
		w.add(&c)
	}
	got, err := e.result(dir)
	return c, got, err
}

// awaitDaemon waits for a daemon to serve and to have nothing to do again, and gives its
// process.
func awaitDaemon(path string, ended <-chan struct{}) (int, error) {
	const patience = 20 * time.Second
	for end := time.Now().Add(patience); ; time.Sleep(5 * time.Millisecond) {
		conn, err := dial(path)
		if err == nil {
			conn.Close()
			time.Sleep(50 * time.Millisecond) // whatever it does when a client has left
			return conn.pid, nil
		}
		select {
		case <-ended:
			return 0, errors.New("the daemon has ended")
		default:
		}
		if time.Now().After(end) {
			return 0, fmt.Errorf("the daemon does not serve: %w", err)
		}
	}
}

// A client of a daemon, which asks for little and reads at once: it is not what is
// measured.
type client struct {
	net.Conn
	pid int // of the daemon
	d   *worker.Decoder
	e   *worker.Encoder
}

// dial connects to a daemon.
func dial(path string) (*client, error) {
	conn, err := socket.Dial(context.Background(), path)
	if err != nil {
		return nil, err
	}
	peer, err := socket.PeerOf(conn)
	if err != nil {
		conn.Close()
		return nil, err
	}
	protocol := worker.Protocol{Dir: nix.DefaultStoreDir}
	c := &client{
		Conn: conn, pid: peer.PID,
		d: &worker.Decoder{Reader: wire.NewReader(conn, wire.Limits{}), Protocol: protocol},
		e: &worker.Encoder{Writer: wire.NewWriter(conn), Protocol: protocol},
	}
	if _, err = worker.Handshake(c.d, c.e, worker.Newest, nil); err == nil {
		err = worker.ReadMessages(c.d, c.e, worker.Listener{})
	}
	if err != nil {
		conn.Close()
		return nil, err
	}
	return c, nil
}

// query asks for what is known of objects, one after the other.
func (c *client) query(paths []nix.StorePath) error {
	for _, p := range paths {
		worker.WriteRequest(c.e, &worker.PathRequest{Operation: worker.OpQueryPathInfo, Path: p})
		if err := c.e.Flush(); err != nil {
			return err
		}
		if err := worker.ReadMessages(c.d, c.e, worker.Listener{}); err != nil {
			return err
		}
		if !c.d.Bool() || len(c.d.UnkeyedPathInfo(p).References) > manyRefs {
			return errors.Join(fmt.Errorf("'%s' is not what it was", p), c.d.Err())
		}
	}
	return c.d.Err()
}

// copied makes a path of n MB, which a real client copies to the daemon.
func copied(b *bench, n int) (*errand, error) {
	seed := b.path("seed-copied")
	opts := local.ChrootOptions(seed)
	opts.FsyncMetadata, opts.FsyncStorePaths = false, false
	st, err := local.Open(context.Background(), opts)
	if err != nil {
		return nil, err
	}
	defer st.Close()
	info := nix.PathInfo{}
	if info.Path, err = nix.MakeStorePath(st.Dir(), "output:out", nix.HashBytes(nix.SHA256, nil), "copied"); err != nil {
		return nil, err
	}
	sum := nix.SHA256.New()
	if err := mixedTree(sum, n, random()); err != nil {
		return nil, err
	}
	info.NARHash = nix.SumHash(nix.SHA256, sum)
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	written := make(chan error, 1)
	go func() { written <- errors.Join(mixedTree(w, n, random()), w.Close()) }()
	err = st.Add(context.Background(), &info, r, store.AddOptions{})
	r.Close()
	if err = errors.Join(err, <-written, st.Close()); err != nil {
		return nil, err
	}
	return &errand{
		often: true,
		run: func(socket, store string, _ func()) error {
			_, err := b.output("nix", "copy", "--no-check-sigs", "--from", seed, "--to", "unix://"+socket+"?root="+store, st.Dir().Join(info.Path))
			return err
		},
		result: func(store string) (map[string]string, error) {
			hashes, err := b.hashes(store)
			if err == nil {
				_, err = b.output("nix-store", "--store", store, "--verify", "--check-contents")
			}
			return hashes, err
		},
		remove: func() { removeTree(seed) },
	}, nil
}

// mixedTree writes the archive of n MB as programs have them: a third in one file, a third
// in files of some MB, and the rest in small ones, filled by content.
func mixedTree(w io.Writer, n int, content io.Reader) error {
	out := nar.NewWriter(w, nar.Limits{})
	block := make([]byte, 1e6)
	if err := out.WriteHeader(nar.Header{Type: nar.Directory}); err != nil {
		return err
	}
	third := int64(n) * 1e6 / 3
	for _, kind := range []struct {
		name string
		size int64
	}{{"large", third}, {"middle", 4e6}, {"small", 1e5}} {
		if err := out.WriteHeader(nar.Header{Name: kind.name, Depth: 1, Type: nar.Directory}); err != nil {
			return err
		}
		for i := range max(1, third/kind.size) {
			if err := out.WriteHeader(nar.Header{Name: fmt.Sprintf("%06d", i), Depth: 2, Type: nar.Regular, Size: kind.size}); err != nil {
				return err
			}
			for left := kind.size; left > 0; {
				part := block[:min(left, int64(len(block)))]
				if _, err := io.ReadFull(content, part); err != nil {
					return err
				}
				if _, err := out.Write(part); err != nil {
					return err
				}
				left -= int64(len(part))
			}
		}
	}
	return out.Close()
}

// random gives bytes without an end that nothing compresses, the same ones each time.
func random() *rand.ChaCha8 {
	return rand.NewChaCha8([32]byte([]byte("the same bytes in every bench run")[:32]))
}

// manyInfos makes a store of n objects without files.
func (b *bench) manyInfos(n int) (string, []nix.StorePath, error) {
	seed := b.path("seed-infos")
	opts := local.ChrootOptions(seed)
	opts.FsyncMetadata = false
	st, err := local.Open(context.Background(), opts)
	if err != nil {
		return "", nil, err
	}
	paths, err := rows(st, nil, n)
	return seed, paths, errors.Join(err, st.Close())
}

// same is the result of errands that change nothing, and look at what they get themselves.
func same(string) (map[string]string, error) { return map[string]string{}, nil }

// queries asks for what is known of n objects, on one connection.
func queries(b *bench, n int) (*errand, error) {
	seed, paths, err := b.manyInfos(n)
	return &errand{
		store: seed, result: same, remove: func() { removeTree(seed) },
		run: func(socket, _ string, look func()) error {
			c, err := dial(socket)
			if err != nil {
				return err
			}
			defer c.Close()
			rw, done, err := direct(c.Conn.(*net.UnixConn))
			if err != nil {
				return err
			}
			defer done()
			c.d.Reader, c.e.Writer = wire.NewReader(rw, wire.Limits{}), wire.NewWriter(rw)
			err = c.query(paths)
			look()
			return err
		},
	}, err
}

// queriesOfEach is how much each of many clients asks for.
const queriesOfEach = 100

// multitude has n clients connected at the same time, each of which asks for what is known
// of some objects.
func multitude(b *bench, n int) (*errand, error) {
	seed, paths, err := b.manyInfos(queriesOfEach)
	return &errand{
		store: seed, result: same, remove: func() { removeTree(seed) },
		run: func(socket, _ string, look func()) error {
			all := make([]*client, n)
			errs := make([]error, n)
			var connected, asked sync.WaitGroup
			begin := make(chan struct{})
			for i := range n {
				connected.Add(1)
				asked.Go(func() {
					all[i], errs[i] = dial(socket)
					connected.Done()
					<-begin
					if errs[i] == nil {
						errs[i] = all[i].query(paths)
					}
				})
			}
			connected.Wait()
			close(begin)
			asked.Wait()
			look()
			for _, c := range all {
				if c != nil {
					c.Close()
				}
			}
			return errors.Join(errs...)
		},
	}, err
}

// servedNotes are what there is to say of a daemon's memory.
func (r row) servedNotes(subjects []*subject) string {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s: peak memory above that of the daemon with nothing to do:", r.item.name)
	var kiln int64
	for _, s := range subjects {
		kiln = median(r.costs[s.name], rss) - median(r.costs[s.name], idle)
		fmt.Fprintf(&b, " %s %.1f MiB of %.1f,", s.name, mebibytes(kiln), mebibytes(median(r.costs[s.name], rss)))
	}
	if want := r.item.aim.above; want > 0 {
		fmt.Fprintf(&b, " aim of %.0f MiB: %s", want, met(mebibytes(kiln) <= want))
	}
	if want := r.item.aim.client; want > 0 {
		each := float64(kiln) / float64(r.units) / 1000
		fmt.Fprintf(&b, " %.0f kB for each client, aim of %.0f: %s", each, want, met(each <= want))
	}
	b.WriteByte('\n')
	return b.String()
}

func idle(c cost) int64 { return c.Idle }
