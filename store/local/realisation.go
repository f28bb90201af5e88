package local

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/sign"
	"github.com/kilnbuild/kiln/store"
	"zombiezen.com/go/sqlite"
)

// unknownRealisation is the error for an output of which nothing is known.
type unknownRealisation struct{ output string }

func (e *unknownRealisation) Error() string {
	return fmt.Sprintf("it is not known what '%s' is", e.output)
}
func (e *unknownRealisation) Unwrap() error { return store.ErrNotFound }

var errNoRealisations = errors.New("the store has no tables for realisations: open it with the feature 'ca-derivations'")

// A realisation is one row of the table that the store has for them, with signatures
// that Nix demands to be a text, if an empty one. The tables
// differ in what they call a derivation, and in whether they have the object's
// key or its path.
var (
	selectRealisation = map[realisationLayout]string{
		legacyRealisations: `select v.path, r.signatures, r.id from Realisations r join ValidPaths v on v.id = r.outputPath
			where r.drvPath = ? and r.outputName = ? order by r.id limit 1`,
		buildTrace: `select outputPath, signatures, id from BuildTraceV3 where drvPath = ? and outputName = ? order by id limit 1`,
	}
	insertRealisation = map[realisationLayout]string{
		legacyRealisations: `insert into Realisations (drvPath, outputName, signatures, outputPath)
			values (?, ?, ?, (select id from ValidPaths where path = ?))`,
		buildTrace: `insert into BuildTraceV3 (drvPath, outputName, signatures, outputPath) values (?, ?, ?, ?)`,
	}
	updateRealisation = map[realisationLayout]string{
		legacyRealisations: `update Realisations set signatures = ? where id = ?`,
		buildTrace:         `update BuildTraceV3 set signatures = ? where id = ?`,
	}
)

// Realisation implements store.RealisationStore. In a store that has the tables
// of Nix before 2.35, the derivation has to be valid.
func (s *Store) Realisation(ctx context.Context, id nix.DrvOutput) (*nix.Realisation, error) {
	if s.realisations == noRealisations {
		return nil, &unknownRealisation{s.printOutput(id)}
	}
	key, err := s.realisationKey(ctx, id)
	if err != nil {
		return nil, err
	}
	var found *nix.Realisation
	err = s.db.read(ctx, func(c *sqlite.Conn) (err error) {
		found, _, err = s.findRealisation(c, key, id)
		return err
	})
	if err == nil && found == nil {
		err = &unknownRealisation{s.printOutput(id)}
	}
	return found, err
}

// keyedRealisation is a realisation with what the table calls its derivation.
type keyedRealisation struct {
	key         string
	realisation *nix.Realisation
}

// realised gives the realisations that come with objects.
func (s *Store) realised(ctx context.Context, objects []Registration) (all []keyedRealisation, err error) {
	for _, o := range objects {
		for _, r := range o.Realises {
			if s.realisations == noRealisations {
				return nil, errNoRealisations
			}
			key, err := s.realisationKey(ctx, r.ID)
			if err != nil {
				return nil, err
			}
			r.OutPath = o.Info.Path
			all = append(all, keyedRealisation{key, &r})
		}
	}
	return all, nil
}

// RegisterRealisation implements store.RealisationStore. What an output has been
// stays; registering the same again adds signatures, and something else is an
// error. The object must be valid.
func (s *Store) RegisterRealisation(ctx context.Context, r *nix.Realisation) error {
	if err := s.changes(); err != nil {
		return err
	}
	if s.realisations == noRealisations {
		return fmt.Errorf("register realisation of '%s': %w", s.printOutput(r.ID), errNoRealisations)
	}
	key, err := s.realisationKey(ctx, r.ID)
	if err != nil {
		return err
	}
	return s.db.write(ctx, func(c *sqlite.Conn) error {
		err := s.insertRealisation(c, key, r)
		if err != nil {
			return fmt.Errorf("register realisation of '%s': %w", s.printOutput(r.ID), err)
		}
		return nil
	})
}

func (s *Store) insertRealisation(c *sqlite.Conn, key string, r *nix.Realisation) error {
	found, row, err := s.findRealisation(c, key, r.ID)
	if err != nil {
		return err
	}
	if found == nil {
		if id, err := s.id(c, r.OutPath); err != nil {
			return err
		} else if id == 0 {
			return s.notValid(r.OutPath)
		}
		return query(c, insertRealisation[s.realisations], nil,
			key, string(r.ID.Output), strings.Join(r.Signatures, " "), s.opts.StoreDir.Join(r.OutPath))
	}
	if found.OutPath != r.OutPath {
		return fmt.Errorf("it is known to be '%s', not '%s'", s.opts.StoreDir.Join(found.OutPath), s.opts.StoreDir.Join(r.OutPath))
	}
	all := slices.Compact(slices.Sorted(slices.Values(slices.Concat(found.Signatures, r.Signatures))))
	return query(c, updateRealisation[s.realisations], nil, strings.Join(all, " "), row)
}

// findRealisation gives what is known of an output, nil for nothing, and its row.
func (s *Store) findRealisation(c *sqlite.Conn, key string, id nix.DrvOutput) (found *nix.Realisation, row int64, err error) {
	err = query(c, selectRealisation[s.realisations], func(stmt *sqlite.Stmt) error {
		p, err := s.opts.StoreDir.Parse(stmt.ColumnText(0))
		found, row = &nix.Realisation{ID: id, OutPath: p, Signatures: strings.Fields(stmt.ColumnText(1))}, stmt.ColumnInt64(2)
		return err
	}, key, string(id.Output))
	return found, row, err
}

// realisationKey is what the table calls a derivation.
func (s *Store) realisationKey(ctx context.Context, id nix.DrvOutput) (string, error) {
	if s.realisations == buildTrace {
		return string(id.Drv), nil
	}
	legacy, err := s.LegacyRealisationID(ctx, id)
	key, _, _ := strings.Cut(legacy, "!")
	return key, err
}

// LegacyRealisation tells which object an output is that is named as by Nix before
// 2.35: by the hash of its derivation, "sha256:<base16>". Stores that have the tables
// of later versions know no such names.
func (s *Store) LegacyRealisation(ctx context.Context, hash string, output nix.OutputName) (*nix.Realisation, error) {
	var found *nix.Realisation
	var err error
	if s.realisations == legacyRealisations {
		err = s.db.read(ctx, func(c *sqlite.Conn) (err error) {
			found, _, err = s.findRealisation(c, hash, nix.DrvOutput{Output: output})
			return err
		})
	}
	if err == nil && found == nil {
		err = &unknownRealisation{hash + "!" + string(output)}
	}
	return found, err
}

// RegisterLegacyRealisation is RegisterRealisation for an output that is named as by
// Nix before 2.35; the derivation in r does not matter.
func (s *Store) RegisterLegacyRealisation(ctx context.Context, hash string, r *nix.Realisation) error {
	if err := s.changes(); err != nil {
		return err
	}
	err := errNoRealisations
	if s.realisations == buildTrace {
		err = errors.New("the store's tables are those of Nix 2.35 and later, in which it has no place")
	}
	if s.realisations == legacyRealisations {
		err = s.db.write(ctx, func(c *sqlite.Conn) error { return s.insertRealisation(c, hash, r) })
	}
	if err != nil {
		return fmt.Errorf("register realisation of '%s!%s': %w", hash, r.ID.Output, err)
	}
	return nil
}

// AddRealisation implements store.RealisationSink.
func (s *Store) AddRealisation(ctx context.Context, r *nix.Realisation, legacy string) error {
	if s.realisations != legacyRealisations {
		return s.RegisterRealisation(ctx, r)
	}
	hash, _, _ := strings.Cut(legacy, "!")
	return s.RegisterLegacyRealisation(ctx, hash, r)
}

// LegacyRealisationID is what Nix before 2.35 calls an output of a valid derivation:
// "sha256:<base16>!<output>".
func (s *Store) LegacyRealisationID(ctx context.Context, id nix.DrvOutput) (string, error) {
	drv, err := s.Derivation(ctx, id.Drv)
	if err != nil {
		return "", err
	}
	return s.hasher.LegacyRealisationID(ctx, drv, id.Output)
}

// RealisationFingerprint is what is signed of a realisation: it follows from the name that
// the store's tables have for the output, as those who read them check it by that. In a
// store that has the tables of Nix before 2.35, the derivation has to be valid.
func (s *Store) RealisationFingerprint(ctx context.Context, r *nix.Realisation) (string, error) {
	if s.realisations == buildTrace {
		return sign.Realisation(r), nil
	}
	id, err := s.LegacyRealisationID(ctx, r.ID)
	if err != nil {
		return "", err
	}
	return sign.LegacyRealisation(id, r.OutPath), nil
}

func (s *Store) printOutput(id nix.DrvOutput) string {
	return s.opts.StoreDir.Join(id.Drv) + "^" + string(id.Output)
}
