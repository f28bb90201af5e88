package binarycache

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"strings"

	"github.com/kilnbuild/kiln/nix/narinfo"
	"github.com/kilnbuild/kiln/nix/narlist"
)

// A lister makes the listing of an archive that is written to it.
type lister struct {
	*io.PipeWriter
	spool *os.File
	// debug has the files with debugging information, by build id.
	debug map[string]string
	done  chan error
}

// newLister begins a listing, which is to be ended. It is nil if none is wanted.
func (c *Cache) newLister() (*lister, error) {
	if !c.opts.Listings && !c.opts.DebugInfo {
		return nil, nil
	}
	spool, err := c.files.spool()
	if err != nil {
		return nil, err
	}
	r, w := io.Pipe()
	l := &lister{PipeWriter: w, spool: spool, debug: make(map[string]string), done: make(chan error, 1)}
	opts := narlist.Options{Limits: limits}
	if c.opts.DebugInfo {
		opts.File = l.look
	}
	go func() {
		err := narlist.Write(spool, r, opts)
		r.CloseWithError(err)
		l.done <- err
	}()
	return l, nil
}

// maxDebug is how many build ids of one object are indexed.
const maxDebug = 1 << 16

// look takes note of debugging information, lib/debug/.build-id/XX/YYYY….debug (Nix:
// BinaryCacheStore::addToStoreCommon).
func (l *lister) look(path string) {
	rest, ok := strings.CutPrefix(path, "lib/debug/.build-id/")
	dir, file, cut := strings.Cut(rest, "/")
	name, debug := strings.CutSuffix(file, ".debug")
	if ok && cut && debug && len(dir) == 2 && len(name) == 38 && isHex(dir+name) && len(l.debug) < maxDebug {
		l.debug[dir+name] = path
	}
}

func isHex(s string) bool {
	return strings.IndexFunc(s, func(r rune) bool { return !strings.ContainsRune("0123456789abcdef", r) }) < 0
}

// end waits until the listing is complete, if err is nil.
func (l *lister) end(err error) error {
	l.CloseWithError(err)
	if lerr := <-l.done; err == nil {
		return lerr
	}
	return nil
}

// putListing puts what was found out of an archive into the cache. The spool is gone
// afterwards.
func (c *Cache) putListing(ctx context.Context, l *lister, i *narinfo.Info) error {
	if !c.opts.Listings {
		if err := discard(l.spool); err != nil {
			return err
		}
	} else {
		size, err := l.spool.Seek(0, io.SeekEnd)
		if err != nil {
			return errors.Join(err, discard(l.spool))
		}
		if err := c.files.put(ctx, i.Path.HashPart()+".ls", "application/json", l.spool, size); err != nil {
			return err
		}
	}
	for id, member := range l.debug {
		text, err := json.Marshal(map[string]string{"archive": "../" + i.URL, "member": member})
		if err == nil {
			err = c.write(ctx, "debuginfo/"+id, "application/json", text)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
