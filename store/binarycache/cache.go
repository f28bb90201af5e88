package binarycache

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strconv"
	"strings"
	"sync"

	"github.com/kilnbuild/kiln/internal/until"
	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/nar"
	"github.com/kilnbuild/kiln/nix/narinfo"
	"github.com/kilnbuild/kiln/nix/sign"
	"github.com/kilnbuild/kiln/store"
	"github.com/kilnbuild/kiln/store/lookups"
)

// Options are the choices for a cache. The zero value reads.
type Options struct {
	// Dir is the store directory that the cache must be of; "" stands for
	// nix.DefaultStoreDir.
	Dir nix.StoreDir
	// Create says that what makes a directory a cache is written if it is not there.
	Create bool
	// Compression of archives that are written: "none", "xz", "zstd", "gzip" or "br";
	// "" stands for "xz".
	Compression string
	// Level of the compression; nil stands for the usual one.
	Level *int
	// Parallel has archives be compressed by all processors.
	Parallel bool
	// Keys sign what is added.
	Keys []sign.SecretKey
	// Trusted are the keys that AddOptions.CheckSignatures wants a signature of.
	Trusted sign.Keys
	// Priority and WantMassQuery are written by Create, if they are not nil. Otherwise
	// they stand for what the cache says of itself.
	Priority      *int
	WantMassQuery *bool
	// Listings writes HASH.ls beside each archive: its files, as JSON.
	Listings bool
	// DebugInfo writes an index of debugging information by build id.
	DebugInfo bool
	// Lookups remember what a cache behind HTTP answers; nil for nobody. They are the
	// caller's.
	Lookups *lookups.Cache
}

// An About is what a cache says of itself.
type About struct {
	// Priority is the lower the sooner a cache should be asked among several; 0 for one
	// that does not say.
	Priority int
	// WantMassQuery says that the cache does not mind being asked for many objects that
	// it has not.
	WantMassQuery bool
}

// A Cache is a binary cache. It is safe for concurrent use. It does not keep when
// objects were added, nor whether they were built there.
type Cache struct {
	name  string // as errors have it
	files files
	opts  Options
	pack  compressor
	about About
	// lookups are those of Options, of the cache that is called url there; nil for none.
	lookups *lookups.Cache
	url     string

	mu    sync.Mutex
	known map[nix.StorePath]*narinfo.Info
}

// maxKnown is how many narinfos are remembered.
const maxKnown = 1 << 14

const cacheInfo = "nix-cache-info"

// maxCacheInfo is the longest nix-cache-info that is read, in bytes.
const maxCacheInfo = 64 << 10

// openCache checks that the files are a cache, or makes them one.
func openCache(ctx context.Context, name string, f files, opts Options) (*Cache, error) {
	opts.Dir = cmp.Or(opts.Dir, nix.DefaultStoreDir)
	c := &Cache{name: name, files: f, opts: opts, known: make(map[nix.StorePath]*narinfo.Info)}
	if h, ok := f.(distant); ok && opts.Lookups != nil {
		c.lookups, c.url = opts.Lookups, h.address()
	}
	c.pack = compressor{method: cmp.Or(opts.Compression, "xz"), level: -1, parallel: opts.Parallel}
	if opts.Level != nil {
		c.pack.level = *opts.Level
	}
	if err := c.check(ctx); err != nil {
		return nil, fmt.Errorf("open binary cache '%s': %w", name, err)
	}
	return c, nil
}

// check looks at what the cache says of itself.
func (c *Cache) check(ctx context.Context) error {
	if c.lookups != nil && !c.opts.Create {
		if d, ok := c.lookups.Describe(c.url); ok && d.StoreDir == c.opts.Dir {
			c.setAbout(About{d.Priority, d.WantMassQuery})
			return nil
		}
	}
	text, err := c.read(ctx, cacheInfo, maxCacheInfo)
	if errors.Is(err, fs.ErrNotExist) {
		if !c.opts.Create {
			return errors.New("it has no file 'nix-cache-info', so it is no binary cache")
		}
		return c.create(ctx)
	}
	if err != nil {
		return err
	}
	var about About
	for line := range strings.Lines(string(text)) {
		key, value, _ := strings.Cut(strings.TrimRight(line, "\r\n"), ":")
		value = strings.TrimSpace(value)
		switch key {
		case "StoreDir":
			if value != string(c.opts.Dir) {
				return fmt.Errorf("it is for the store directory '%s', not '%s'", value, c.opts.Dir)
			}
		case "WantMassQuery":
			about.WantMassQuery = value == "1"
		case "Priority":
			if n, err := strconv.Atoi(value); err == nil {
				about.Priority = n
			}
		}
	}
	if c.lookups != nil {
		c.lookups.SetDescription(c.url, lookups.Description{StoreDir: c.opts.Dir, Priority: about.Priority, WantMassQuery: about.WantMassQuery})
	}
	c.setAbout(about)
	return nil
}

// A goneError says that an archive is not where the cache says it is.
type goneError struct{ err error }

func (e *goneError) Error() string   { return e.err.Error() }
func (e *goneError) Unwrap() []error { return []error{e.err, store.ErrNotFound} }

// setAbout takes what the cache says of itself, where the options do not.
func (c *Cache) setAbout(about About) {
	if c.opts.Priority != nil {
		about.Priority = *c.opts.Priority
	}
	if c.opts.WantMassQuery != nil {
		about.WantMassQuery = *c.opts.WantMassQuery
	}
	c.about = about
}

// About tells what the cache says of itself, or the options in its place.
func (c *Cache) About() About { return c.about }

func (c *Cache) create(ctx context.Context) error {
	c.setAbout(About{})
	text := "StoreDir: " + string(c.opts.Dir) + "\n"
	if c.about.WantMassQuery {
		text += "WantMassQuery: 1\n"
	}
	if c.opts.Priority != nil {
		text += "Priority: " + strconv.Itoa(c.about.Priority) + "\n"
	}
	return c.write(ctx, cacheInfo, "text/x-nix-cache-info", []byte(text))
}

// read reads a small file.
func (c *Cache) read(ctx context.Context, name string, limit int64) ([]byte, error) {
	r, err := c.files.open(ctx, name)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	text, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err == nil && int64(len(text)) > limit {
		err = fmt.Errorf("'%s' has more than %d bytes", name, limit)
	}
	return text, err
}

// write writes a small file.
func (c *Cache) write(ctx context.Context, name, kind string, text []byte) error {
	spool, err := c.files.spool()
	if err != nil {
		return err
	}
	if _, err := spool.Write(text); err != nil {
		return errors.Join(err, discard(spool))
	}
	return c.files.put(ctx, name, kind, spool, int64(len(text)))
}

// Dir implements store.Store.
func (c *Cache) Dir() nix.StoreDir { return c.opts.Dir }

// Name is what errors call the cache.
func (c *Cache) Name() string { return c.name }

func narinfoName(p nix.StorePath) string { return p.HashPart() + ".narinfo" }

// info gives what the cache says of an object.
func (c *Cache) info(ctx context.Context, p nix.StorePath) (*narinfo.Info, error) {
	c.mu.Lock()
	i := c.known[p]
	c.mu.Unlock()
	if i != nil {
		return i, context.Cause(ctx)
	}
	i, err := c.ask(ctx, p)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("path '%s' in '%s': %w", c.opts.Dir.Join(p), c.name, store.ErrNotFound)
	}
	if err == nil && i.Path != p {
		err = fmt.Errorf("it is about '%s'", c.opts.Dir.Join(i.Path))
	}
	if err == nil {
		err = checkURL(i.URL)
	}
	if err != nil {
		return nil, fmt.Errorf("read what '%s' says of '%s': %w", c.name, c.opts.Dir.Join(p), err)
	}
	c.remember(i)
	return i, nil
}

// ask reads a narinfo, unless the answer is known from before.
func (c *Cache) ask(ctx context.Context, p nix.StorePath) (*narinfo.Info, error) {
	if c.lookups != nil {
		switch answer, i := c.lookups.Narinfo(c.url, c.opts.Dir, p.HashPart()); answer {
		case lookups.Present:
			return i, nil
		case lookups.Absent:
			return nil, fs.ErrNotExist
		}
	}
	text, err := c.read(ctx, narinfoName(p), narinfo.MaxSize)
	if errors.Is(err, fs.ErrNotExist) && c.lookups != nil {
		c.lookups.SetAbsent(c.url, p.HashPart())
	}
	if err != nil {
		return nil, err
	}
	i, err := narinfo.Parse(c.opts.Dir, text)
	if err == nil && i.Path.HashPart() == p.HashPart() && c.lookups != nil {
		c.lookups.SetNarinfo(c.url, i)
	}
	return i, err
}

// Forget implements store.ForgetfulSource: an object may have been replaced.
func (c *Cache) Forget(p nix.StorePath) {
	c.mu.Lock()
	delete(c.known, p)
	c.mu.Unlock()
	if c.lookups != nil {
		c.lookups.Forget(c.url, p.HashPart())
	}
}

// DownloadSize is how many bytes NAR would fetch, 0 if the cache does not say.
func (c *Cache) DownloadSize(ctx context.Context, p nix.StorePath) (int64, error) {
	i, err := c.info(ctx, p)
	if err != nil {
		return 0, err
	}
	return i.FileSize, nil
}

// written takes note of a narinfo that was written.
func (c *Cache) written(i *narinfo.Info) {
	c.remember(i)
	if c.lookups != nil {
		c.lookups.SetNarinfo(c.url, i)
	}
}

func (c *Cache) remember(i *narinfo.Info) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.known) >= maxKnown {
		clear(c.known)
	}
	c.known[i.Path] = i
}

// checkURL refuses what leads out of the cache.
func checkURL(url string) error {
	file, _, _ := strings.Cut(url, "?")
	if strings.ContainsAny(url, "\\\x00\r\n#") || strings.Contains(file, ":") || path.IsAbs(file) || file == "" ||
		path.Clean(file) != file || file == ".." || strings.HasPrefix(file, "../") || strings.Contains(strings.ToLower(file), "%2e") {
		return fmt.Errorf("its URL '%.200s' leads out of the cache", url)
	}
	return nil
}

// PathInfo implements store.Source.
func (c *Cache) PathInfo(ctx context.Context, p nix.StorePath) (*nix.PathInfo, error) {
	i, err := c.info(ctx, p)
	if err != nil {
		return nil, err
	}
	info := i.PathInfo
	info.References = append([]nix.StorePath(nil), i.References...)
	info.Signatures = append([]string(nil), i.Signatures...)
	return &info, nil
}

// queries is how many narinfos are asked for at once.
const queries = 25

// PathInfos implements store.InfoSource.
func (c *Cache) PathInfos(ctx context.Context, paths []nix.StorePath) ([]*nix.PathInfo, error) {
	infos := make([]*nix.PathInfo, len(paths))
	err := until.Each(ctx, len(paths), queries, func(ctx context.Context, i int) (err error) {
		infos[i], err = c.PathInfo(ctx, paths[i])
		return err
	})
	return infos, err
}

// ValidPaths implements store.BatchSource.
func (c *Cache) ValidPaths(ctx context.Context, paths []nix.StorePath) ([]nix.StorePath, error) {
	there := make([]bool, len(paths))
	err := until.Each(ctx, len(paths), queries, func(ctx context.Context, i int) (err error) {
		there[i], err = c.files.exists(ctx, narinfoName(paths[i]))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("ask '%s' for what it has: %w", c.name, err)
	}
	var valid []nix.StorePath
	for i, p := range paths {
		if there[i] {
			valid = append(valid, p)
		}
	}
	return valid, nil
}

// NAR implements store.Source. What does not have the hash and size that the cache
// says is an error when all of it was written. An archive that is gone although the
// cache says that it has the object is an error that wraps store.ErrNotFound.
func (c *Cache) NAR(ctx context.Context, p nix.StorePath, w io.Writer) error {
	i, err := c.info(ctx, p)
	if err != nil {
		return err
	}
	sum := nix.SHA256.New()
	if err = c.archive(ctx, i, io.MultiWriter(w, sum)); err != nil {
		return err
	}
	if got := nix.SumHash(nix.SHA256, sum); got != i.NARHash {
		c.Forget(p)
		return c.unread(p, fmt.Errorf("the archive has the hash %s, not %s", got, i.NARHash))
	}
	return nil
}

// KnownNAR implements store.KnownSource. An archive of another size is an error, and one
// of another hash is not: that is for who knows info.
func (c *Cache) KnownNAR(ctx context.Context, info *nix.PathInfo, w io.Writer) error {
	i, err := c.info(ctx, info.Path)
	if err != nil {
		return err
	}
	return c.archive(ctx, i, w)
}

// archive writes the archive of an object. When that fails, what was said of the object is
// forgotten.
func (c *Cache) archive(ctx context.Context, i *narinfo.Info, w io.Writer) error {
	err := c.download(ctx, i, w)
	if cause := context.Cause(ctx); err != nil && cause != nil {
		err = cause
	}
	if err != nil {
		c.Forget(i.Path)
		return c.unread(i.Path, err)
	}
	return nil
}

func (c *Cache) unread(p nix.StorePath, err error) error {
	return fmt.Errorf("read '%s' from '%s': %w", c.opts.Dir.Join(p), c.name, err)
}

// archiveBuffer is how much of an archive is read at once, in bytes.
const archiveBuffer = 256 << 10

func (c *Cache) download(ctx context.Context, i *narinfo.Info, w io.Writer) error {
	if err := context.Cause(ctx); err != nil {
		return err
	}
	packed, err := c.files.open(ctx, i.URL)
	if errors.Is(err, fs.ErrNotExist) {
		return &goneError{err}
	}
	if err != nil {
		return err
	}
	defer packed.Close()
	unpacked, err := unpack(ctx, i, packed)
	if err != nil {
		return fmt.Errorf("unpack '%s': %w", i.URL, err)
	}
	defer unpacked.Close()
	// One byte more, to see that there is more.
	archive := io.LimitReader(unpacked, i.NARSize+1)
	n, err := io.CopyBuffer(until.Writer(ctx, w), archive, make([]byte, min(i.NARSize+1, archiveBuffer)))
	switch {
	case err != nil:
		return fmt.Errorf("unpack '%s': %w", i.URL, err)
	case n > i.NARSize:
		return fmt.Errorf("the archive has more than the %d bytes that it should have", i.NARSize)
	case n < i.NARSize:
		return fmt.Errorf("the archive has %d bytes, not %d", n, i.NARSize)
	}
	return nil
}

// unpack gives the archive of what was downloaded.
func unpack(ctx context.Context, i *narinfo.Info, packed io.Reader) (io.ReadCloser, error) {
	if i.Compression == "xz" && i.NARSize >= xzWorthwhile {
		if unpacked, err := readXZ(ctx, packed); err == nil {
			return unpacked, nil
		}
	}
	return decompress(i.Compression, packed)
}

// limits are those of archives.
var limits nar.Limits
