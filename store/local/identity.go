package local

import (
	"os"
	"slices"
)

// identity tells a store from another one at the same place.
type identity []os.FileInfo

// identity looks at the files and directories that are others in another store, or
// in one that was migrated since: its version files are replaced then.
func (l layout) identity() identity {
	var id identity
	for _, name := range []string{l.store, l.database(), l.schema(), l.caSchema()} {
		info, err := os.Stat(name)
		if err != nil {
			info = nil
		}
		id = append(id, info)
	}
	return id
}

// Replaced tells whether the store that was opened has been deleted, made anew or
// migrated since, by whomever. It has to be opened again then.
func (s *Store) Replaced() bool {
	return !slices.EqualFunc(s.identity, s.layout.identity(), func(a, b os.FileInfo) bool {
		if a == nil || b == nil {
			return a == nil && b == nil
		}
		return os.SameFile(a, b)
	})
}
