package local

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Prepare makes those directories of the state that others may have removed meanwhile,
// and if user is not "" those that Nix up to 2.8 wants for everybody by name: they are
// that user's. (Nix: LocalStore::createUser.)
func (s *Store) Prepare(user string, uid int) error {
	for _, dir := range s.layout.directories() {
		if err := makeDirs(dir, 0o755); err != nil {
			return fmt.Errorf("prepare store for a client: %w", explain(err))
		}
	}
	if user == "" || user == "." || user == ".." || strings.ContainsAny(user, "/\x00") {
		return nil
	}
	dir := filepath.Join(s.layout.state, "profiles", "per-user", user)
	if err := os.Mkdir(dir, 0o755); err != nil {
		if errors.Is(err, fs.ErrExist) {
			return nil
		}
		return fmt.Errorf("prepare store for a client: %w", explain(err))
	}
	err := os.Chmod(dir, 0o755)
	if err == nil && os.Geteuid() == 0 {
		err = os.Lchown(dir, uid, -1)
	}
	if err != nil {
		return fmt.Errorf("prepare store for a client: %w", explain(err))
	}
	return nil
}
