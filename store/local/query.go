package local

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/kilnbuild/kiln/internal/dirfd"
	"github.com/kilnbuild/kiln/internal/until"
	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/nar"
	"github.com/kilnbuild/kiln/store"
	"zombiezen.com/go/sqlite"
)

// notValid is the error for an object that the store does not have.
type notValid struct{ path string }

func (e *notValid) Error() string { return fmt.Sprintf("path '%s' is not valid", e.path) }
func (e *notValid) Unwrap() error { return store.ErrNotFound }

func (s *Store) notValid(p nix.StorePath) error { return &notValid{s.opts.StoreDir.Join(p)} }

// One statement, so that what it gives is of one moment: the object's own row,
// repeated for each reference.
const selectInfo = `select v.hash, v.registrationTime, v.deriver, v.narSize, v.ultimate, v.sigs, v.ca, r.path
	from ValidPaths v left join Refs on Refs.referrer = v.id left join ValidPaths r on r.id = Refs.reference
	where v.path = ?`

// PathInfo implements store.Source.
func (s *Store) PathInfo(ctx context.Context, p nix.StorePath) (*nix.PathInfo, error) {
	var info *nix.PathInfo
	err := s.db.read(ctx, func(c *sqlite.Conn) (err error) {
		info, err = s.info(c, p)
		return err
	})
	return info, err
}

// PathInfos implements store.InfoSource.
func (s *Store) PathInfos(ctx context.Context, paths []nix.StorePath) ([]*nix.PathInfo, error) {
	infos := make([]*nix.PathInfo, len(paths))
	err := s.db.snapshot(ctx, func(c *sqlite.Conn) (err error) {
		for i, p := range paths {
			if infos[i], err = s.info(c, p); err != nil {
				return err
			}
		}
		return nil
	})
	return infos, err
}

func (s *Store) info(c *sqlite.Conn, p nix.StorePath) (info *nix.PathInfo, err error) {
	err = query(c, selectInfo, func(row *sqlite.Stmt) (err error) {
		if info == nil {
			if info, err = s.scanInfo(p, row); err != nil {
				return fmt.Errorf("read database record of '%s': %w", s.opts.StoreDir.Join(p), err)
			}
		}
		if row.ColumnIsNull(7) {
			return nil
		}
		r, err := s.opts.StoreDir.Parse(row.ColumnText(7))
		info.References = append(info.References, r)
		return err
	}, s.opts.StoreDir.Join(p))
	if err != nil {
		return nil, err
	}
	if info == nil {
		return nil, s.notValid(p)
	}
	slices.Sort(info.References)
	return info, nil
}

// scanInfo reads the columns of selectInfo but the reference.
func (s *Store) scanInfo(p nix.StorePath, row *sqlite.Stmt) (*nix.PathInfo, error) {
	info := &nix.PathInfo{
		Path:             p,
		RegistrationTime: time.Unix(row.ColumnInt64(1), 0),
		NARSize:          row.ColumnInt64(3),
		Ultimate:         row.ColumnInt64(4) == 1,
	}
	var err error
	if info.NARHash, err = nix.ParseHash(row.ColumnText(0)); err != nil {
		return nil, err
	}
	if deriver := row.ColumnText(2); deriver != "" {
		if info.Deriver, err = s.opts.StoreDir.Parse(deriver); err != nil {
			return nil, err
		}
	}
	if sigs := row.ColumnText(5); sigs != "" {
		info.Signatures = strings.Fields(sigs)
	}
	info.CA, err = nix.ParseContentAddress(row.ColumnText(6))
	return info, err
}

// ValidPaths implements store.BatchSource.
func (s *Store) ValidPaths(ctx context.Context, paths []nix.StorePath) ([]nix.StorePath, error) {
	if len(paths) == 0 {
		return nil, nil
	}
	var valid []nix.StorePath
	look := func(c *sqlite.Conn) error {
		valid = nil
		for _, p := range paths {
			id, err := s.id(c, p)
			if err != nil {
				return err
			}
			if id != 0 {
				valid = append(valid, p)
			}
		}
		return nil
	}
	read := s.db.snapshot
	if len(paths) == 1 {
		read = s.db.read
	}
	err := read(ctx, look)
	return valid, err
}

// id is the key of a valid object in the database, 0 for one that is not valid.
func (s *Store) id(c *sqlite.Conn, p nix.StorePath) (id int64, err error) {
	err = query(c, "select id from ValidPaths where path = ?", func(row *sqlite.Stmt) error {
		id = row.ColumnInt64(0)
		return nil
	}, s.opts.StoreDir.Join(p))
	return id, err
}

// isValid tells whether an object is valid.
func (s *Store) isValid(ctx context.Context, p nix.StorePath) (bool, error) {
	valid, err := s.ValidPaths(ctx, []nix.StorePath{p})
	return len(valid) == 1, err
}

// paths collects the paths that a statement gives in its first column, sorted.
func (s *Store) paths(ctx context.Context, text string, args ...any) ([]nix.StorePath, error) {
	var paths []nix.StorePath
	err := s.db.read(ctx, func(c *sqlite.Conn) error {
		paths = nil
		return query(c, text, func(row *sqlite.Stmt) error {
			p, err := s.opts.StoreDir.Parse(row.ColumnText(0))
			paths = append(paths, p)
			return err
		}, args...)
	})
	slices.Sort(paths)
	return paths, err
}

// Referrers implements store.ReferrerSource.
func (s *Store) Referrers(ctx context.Context, p nix.StorePath) ([]nix.StorePath, error) {
	return s.paths(ctx, `select path from Refs join ValidPaths on referrer = id
		where reference = (select id from ValidPaths where path = ?)`, s.opts.StoreDir.Join(p))
}

// AllValidPaths gives the valid objects, sorted. It reads a part at a time: what
// becomes valid or invalid meanwhile may or may not be among them. The first
// error ends it.
func (s *Store) AllValidPaths(ctx context.Context) iter.Seq2[nix.StorePath, error] {
	return func(yield func(nix.StorePath, error) bool) {
		last := ""
		for {
			part, err := s.paths(ctx, "select path from ValidPaths where path > ? order by path limit 1000", last)
			if err != nil {
				yield("", err)
				return
			}
			for _, p := range part {
				if !yield(p, nil) {
					return
				}
			}
			if len(part) == 0 {
				return
			}
			last = s.opts.StoreDir.Join(part[len(part)-1])
		}
	}
}

// PathFromHashPart finds the valid object with a hash part. An error that wraps
// store.ErrNotFound says that there is none.
func (s *Store) PathFromHashPart(ctx context.Context, hashPart string) (nix.StorePath, error) {
	if len(hashPart) != nix.HashPartLen {
		return "", fmt.Errorf("find path by hash part: '%s' does not have %d characters", hashPart, nix.HashPartLen)
	}
	prefix := string(s.opts.StoreDir) + "/" + hashPart
	found, err := s.paths(ctx, "select path from ValidPaths where path >= ? order by path limit 1", prefix)
	if err != nil {
		return "", err
	}
	if len(found) == 0 || found[0].HashPart() != hashPart {
		return "", &notValid{prefix + "-…"}
	}
	return found[0], nil
}

// DerivationOutputs gives the outputs of a valid derivation whose paths the
// derivation itself says. For one that is not valid, the error wraps
// store.ErrNotFound.
func (s *Store) DerivationOutputs(ctx context.Context, drv nix.StorePath) (map[nix.OutputName]nix.StorePath, error) {
	var outputs map[nix.OutputName]nix.StorePath
	err := s.db.read(ctx, func(c *sqlite.Conn) error {
		outputs = nil
		return query(c, `select d.id, d.path from ValidPaths v left join DerivationOutputs d on d.drv = v.id where v.path = ?`,
			func(row *sqlite.Stmt) error {
				if outputs == nil {
					outputs = make(map[nix.OutputName]nix.StorePath)
				}
				if row.ColumnIsNull(0) {
					return nil
				}
				p, err := s.opts.StoreDir.Parse(row.ColumnText(1))
				outputs[nix.OutputName(row.ColumnText(0))] = p
				return err
			}, s.opts.StoreDir.Join(drv))
	})
	if err == nil && outputs == nil {
		err = s.notValid(drv)
	}
	return outputs, err
}

// ValidDerivers gives the valid derivations that have p as an output, sorted.
func (s *Store) ValidDerivers(ctx context.Context, p nix.StorePath) ([]nix.StorePath, error) {
	return s.paths(ctx, `select v.path from DerivationOutputs d join ValidPaths v on v.id = d.drv where d.path = ?`, s.opts.StoreDir.Join(p))
}

// NAR implements store.Source.
func (s *Store) NAR(ctx context.Context, p nix.StorePath, w io.Writer) error {
	if err := s.mustBeValid(ctx, p); err != nil {
		return err
	}
	return s.KnownNAR(ctx, &nix.PathInfo{Path: p}, w)
}

// KnownNAR implements store.KnownSource.
func (s *Store) KnownNAR(ctx context.Context, info *nix.PathInfo, w io.Writer) error {
	w = until.Writer(ctx, w)
	opts := nar.DumpOptions{Name: s.opts.StoreDir.Join(info.Path)}
	if dir, ok := s.objects.open(s.layout.store); ok {
		// Somebody may have put another directory in its place.
		if n, err := nar.DumpAt(w, dir, string(info.Path), opts); n > 0 || !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	_, err := nar.Dump(w, s.RealPath(info.Path), opts)
	return err
}

// An openDirectory is the store directory, open for naming its entries from when it is first
// needed. To open it for each of many small objects takes as long as to read a file.
type openDirectory struct {
	mu sync.Mutex
	is bool
	fd int
}

// open gives a descriptor that is good until close is called.
func (d *openDirectory) open(path string) (fd int, ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.is {
		fd, _, err := dirfd.OpenParent(path + "/x")
		if err != nil {
			return -1, false
		}
		d.fd, d.is = fd, true
	}
	return d.fd, true
}

func (d *openDirectory) close() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.is {
		dirfd.Close(d.fd)
		d.is = false
	}
}

func (s *Store) mustBeValid(ctx context.Context, p nix.StorePath) error {
	valid, err := s.isValid(ctx, p)
	if err == nil && !valid {
		err = s.notValid(p)
	}
	return err
}

// ReadFile reads a valid object that is a regular file of at most limit bytes.
func (s *Store) ReadFile(ctx context.Context, p nix.StorePath, limit int64) ([]byte, error) {
	if err := s.mustBeValid(ctx, p); err != nil {
		return nil, err
	}
	return s.readObject(p, limit)
}

// readObject is ReadFile for an object that need not be valid.
func (s *Store) readObject(p nix.StorePath, limit int64) ([]byte, error) {
	f, err := os.OpenFile(s.RealPath(p), os.O_RDONLY|openNoFollow, 0)
	if err != nil {
		return nil, fmt.Errorf("read store object: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("read store object: %w", err)
	}
	switch {
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("read store object '%s': not a regular file", s.opts.StoreDir.Join(p))
	case info.Size() > limit:
		return nil, fmt.Errorf("read store object '%s': %d bytes, at most %d are allowed", s.opts.StoreDir.Join(p), info.Size(), limit)
	}
	data := make([]byte, info.Size())
	if _, err := io.ReadFull(f, data); err != nil {
		return nil, fmt.Errorf("read store object '%s': %w", s.opts.StoreDir.Join(p), err)
	}
	return data, nil
}
