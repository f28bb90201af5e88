package local

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/aterm"
	"github.com/kilnbuild/kiln/store"
	"zombiezen.com/go/sqlite"
)

// Registration is an object that is in its place and is to become valid.
type Registration struct {
	// Info tells about the object. A zero RegistrationTime stands for the present.
	Info nix.PathInfo
	// Outputs are the output paths that a derivation states. They are of interest
	// for objects that are derivations. If it is nil for one of them, the
	// derivation is read and checked.
	Outputs map[nix.OutputName]nix.StorePath
	// Realises are outputs of derivations that the object is from now on known to be
	// (store.RealisationStore), with signatures of that; their OutPath is the object's,
	// whatever they say.
	Realises []nix.Realisation
}

// maxDerivation bounds the size of a derivation file that is read, in bytes.
const maxDerivation = 256 << 20

// Register makes objects valid: all of them, in one transaction, or none. They
// may refer to each other, but not in a circle, and to valid objects. The
// caller holds their locks.
//
// Of an object that is valid already, the hash, the size, the signatures, the
// content address and Ultimate are replaced, and references added; its
// registration time and deriver stay. (Nix: registerValidPaths.)
func (s *Store) Register(ctx context.Context, objects []Registration) error {
	if err := s.changes(); err != nil {
		return err
	}
	if len(objects) == 0 {
		return nil
	}
	infos := make([]*nix.PathInfo, len(objects))
	for i := range objects {
		infos[i] = &objects[i].Info
	}
	if _, err := store.SortByReferences(infos); err != nil {
		return fmt.Errorf("register: %w", err)
	}
	outputs := make([]map[nix.OutputName]nix.StorePath, len(objects))
	for i, o := range objects {
		if outputs[i] = o.Outputs; o.Outputs != nil || !o.Info.Path.IsDerivation() {
			continue
		}
		var err error
		if outputs[i], err = s.statedOutputs(ctx, o.Info.Path); err != nil {
			return fmt.Errorf("register: %w", err)
		}
	}
	if s.opts.AutoOptimise {
		for _, info := range infos {
			if _, err := s.OptimisePath(ctx, info.Path); err != nil {
				return err
			}
		}
	}
	if s.opts.FsyncStorePaths {
		if err := s.sync(infos); err != nil {
			return fmt.Errorf("register: %w", err)
		}
	}
	realised, err := s.realised(ctx, objects)
	if err != nil {
		return fmt.Errorf("register: %w", err)
	}
	return s.db.write(ctx, func(c *sqlite.Conn) error {
		if err := s.insert(c, infos, outputs); err != nil {
			return err
		}
		for _, r := range realised {
			if err := s.insertRealisation(c, r.key, r.realisation); err != nil {
				return fmt.Errorf("register realisation of '%s': %w", s.printOutput(r.realisation.ID), err)
			}
		}
		return nil
	})
}

// insert writes the rows of objects and then those of their references.
func (s *Store) insert(c *sqlite.Conn, infos []*nix.PathInfo, outputs []map[nix.OutputName]nix.StorePath) error {
	ids := make(map[nix.StorePath]int64, len(infos))
	for i, info := range infos {
		id, err := s.insertInfo(c, info)
		if err == nil {
			err = s.insertOutputs(c, id, outputs[i])
		}
		if err != nil {
			return fmt.Errorf("register '%s': %w", s.opts.StoreDir.Join(info.Path), err)
		}
		ids[info.Path] = id
	}
	for _, info := range infos {
		for _, r := range info.References {
			id, ok := ids[r]
			if !ok {
				var err error
				if id, err = s.id(c, r); err != nil {
					return err
				}
				if id == 0 {
					return fmt.Errorf("register '%s': its reference: %w", s.opts.StoreDir.Join(info.Path), s.notValid(r))
				}
				ids[r] = id
			}
			// A row that is there already is the same: its columns are its key. To replace
			// it, or to select the key while inserting, takes three times as long.
			if err := query(c, "insert or ignore into Refs values (?, ?)", nil, ids[info.Path], id); err != nil {
				return err
			}
		}
	}
	return nil
}

func (s *Store) insertInfo(c *sqlite.Conn, info *nix.PathInfo) (int64, error) {
	hash := info.NARHash.Base16Prefixed()
	size, sigs, ca := orNull(info.NARSize), orNull(strings.Join(info.Signatures, " ")), orNull(info.CA.String())
	var ultimate any
	if info.Ultimate {
		ultimate = int64(1)
	}
	id, err := s.id(c, info.Path)
	if err != nil {
		return 0, err
	}
	if id != 0 {
		return id, query(c, "update ValidPaths set narSize = ?, hash = ?, ultimate = ?, sigs = ?, ca = ? where id = ?", nil,
			size, hash, ultimate, sigs, ca, id)
	}
	registered := info.RegistrationTime
	if registered.IsZero() {
		registered = time.Now()
	}
	var deriver any
	if info.Deriver != "" {
		deriver = s.opts.StoreDir.Join(info.Deriver)
	}
	err = query(c, `insert into ValidPaths (path, hash, registrationTime, deriver, narSize, ultimate, sigs, ca)
		values (?, ?, ?, ?, ?, ?, ?, ?)`, nil,
		s.opts.StoreDir.Join(info.Path), hash, registered.Unix(), deriver, size, ultimate, sigs, ca)
	return c.LastInsertRowID(), err
}

// orNull is how the database says "none".
func orNull[T comparable](v T) any {
	var zero T
	if v == zero {
		return nil
	}
	return v
}

func (s *Store) insertOutputs(c *sqlite.Conn, drv int64, outputs map[nix.OutputName]nix.StorePath) error {
	for _, name := range slices.Sorted(maps.Keys(outputs)) {
		err := query(c, "insert or replace into DerivationOutputs (drv, id, path) values (?, ?, ?)", nil,
			drv, string(name), s.opts.StoreDir.Join(outputs[name]))
		if err != nil {
			return err
		}
	}
	return nil
}

// statedOutputs reads a derivation that is in its place, checks that its output
// paths follow from it, and gives them.
func (s *Store) statedOutputs(ctx context.Context, p nix.StorePath) (map[nix.OutputName]nix.StorePath, error) {
	drv, err := s.loadDerivation(ctx, p)
	if err != nil {
		return nil, err
	}
	if err := s.hasher.CheckInvariants(ctx, p, drv); err != nil {
		return nil, err
	}
	return outputPaths(drv), nil
}

// outputPaths are the output paths that a derivation states.
func outputPaths(drv *nix.Derivation) map[nix.OutputName]nix.StorePath {
	outputs := make(map[nix.OutputName]nix.StorePath, len(drv.Outputs))
	for name, o := range drv.Outputs {
		if o.Kind.HasKnownOutputPaths() && o.Path != "" {
			outputs[name] = o.Path
		}
	}
	return outputs
}

// loadDerivation reads a derivation whether or not it is valid: it may be one
// that is being registered.
func (s *Store) loadDerivation(_ context.Context, p nix.StorePath) (*nix.Derivation, error) {
	text, err := s.readObject(p, maxDerivation)
	if err != nil {
		return nil, err
	}
	return aterm.Parse(s.opts.StoreDir, strings.TrimSuffix(p.Name(), nix.DrvExtension), text, aterm.Limits{})
}

// AddSignatures adds signatures to a valid object's.
func (s *Store) AddSignatures(ctx context.Context, p nix.StorePath, signatures []string) error {
	if err := s.changes(); err != nil {
		return err
	}
	return s.db.write(ctx, func(c *sqlite.Conn) error {
		var id int64
		var have []string
		err := query(c, "select id, sigs from ValidPaths where path = ?", func(row *sqlite.Stmt) error {
			id, have = row.ColumnInt64(0), strings.Fields(row.ColumnText(1))
			return nil
		}, s.opts.StoreDir.Join(p))
		if err != nil {
			return err
		}
		if id == 0 {
			return s.notValid(p)
		}
		all := slices.Compact(slices.Sorted(slices.Values(append(have, signatures...))))
		return query(c, "update ValidPaths set sigs = ? where id = ?", nil, orNull(strings.Join(all, " ")), id)
	})
}

// Invalidate makes objects invalid: all of them, in one transaction, or none. No
// valid object but these may refer to them. Objects that are not valid do not
// matter. The files stay where they are.
func (s *Store) Invalidate(ctx context.Context, paths ...nix.StorePath) error {
	if err := s.changes(); err != nil {
		return err
	}
	full := make([]string, len(paths))
	for i, p := range paths {
		full[i] = s.opts.StoreDir.Join(p)
	}
	list, err := json.Marshal(full)
	if err != nil {
		return fmt.Errorf("invalidate: %w", err)
	}
	err = s.db.write(ctx, func(c *sqlite.Conn) error {
		// So that the order among them does not matter. It is also what takes the least
		// time: SQLite keeps copies of all that a deletion from ValidPaths changes.
		err := query(c, "delete from Refs where referrer in (select id from ValidPaths where path in (select value from json_each(?)))", nil, string(list))
		for _, p := range full {
			if err != nil {
				break
			}
			err = query(c, "delete from ValidPaths where path = ?", nil, p)
		}
		return err
	})
	if isConstraint(err) {
		return fmt.Errorf("invalidate: %w", s.stillNeeded(ctx, paths, err))
	}
	return err
}

func isConstraint(err error) bool {
	return sqlite.ErrCode(err).ToPrimary() == sqlite.ResultConstraint
}

// stillNeeded says who refers to an object that was to become invalid.
func (s *Store) stillNeeded(ctx context.Context, paths []nix.StorePath, cause error) error {
	for _, p := range paths {
		referrers, err := s.Referrers(ctx, p)
		if err != nil {
			return errors.Join(cause, err)
		}
		for _, r := range referrers {
			if !slices.Contains(paths, r) {
				return &stillNeededError{s.opts.StoreDir.Join(p), s.opts.StoreDir.Join(r)}
			}
		}
	}
	return cause
}

// stillNeededError says that a valid object refers to one that was to become
// invalid.
type stillNeededError struct{ path, referrer string }

func (e *stillNeededError) Error() string {
	return fmt.Sprintf("path '%s' is in use by '%s'", e.path, e.referrer)
}

func isStillNeeded(err error) bool {
	var needed *stillNeededError
	return errors.As(err, &needed)
}
