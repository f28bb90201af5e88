package main

import (
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/kilnbuild/kiln/executor/hook"
	"github.com/kilnbuild/kiln/nix/conf"
	"github.com/kilnbuild/kiln/nix/logline"
)

// replyTimeout is how long a build hook may take to answer: it may have to connect
// to several machines.
const replyTimeout = 10 * time.Minute

// buildHook makes what passes builds on to other machines, nil where there are
// none. The caller closes it.
func (c *configuration) buildHook(verbose int) (*hook.Pool, error) {
	s := c.settings
	if len(s.BuildHook) == 0 {
		return nil, nil
	}
	if there, err := hasMachines(s.Builders, maxNestedFiles); err != nil || !there {
		return nil, err
	}
	told := map[string]string{"store": storeURI(c.local)}
	for e := range s.All() {
		if !e.Own && e.Name != "store" {
			told[e.Name] = e.Value
		}
	}
	return hook.NewPool(hook.BuildHook{
		Words: s.BuildHook, Verbosity: logline.Info + logline.Level(min(verbose, 3)), Settings: told,
		ReplyTimeout: replyTimeout, KillTimeout: s.BuildHookKillTimeout,
	}), nil
}

// storeURI is a store as every release of Nix reads it, with all its directories.
func storeURI(d conf.LocalDirs) string {
	return "local?" + url.Values{"store": {d.Store}, "real": {d.Real}, "state": {d.State}, "log": {d.Log}}.Encode()
}

// maxNestedFiles is how deep files with machines may name other ones.
const maxNestedFiles = 8

// hasMachines tells whether a value of `builders` names any machine: itself, or in
// the files that it names after an @.
func hasMachines(builders string, depth int) (bool, error) {
	if depth < 0 {
		return false, errors.New("builders: files name each other in a circle")
	}
	for entry := range strings.FieldsFuncSeq(builders, func(c rune) bool { return c == '\n' || c == ';' }) {
		entry, _, _ = strings.Cut(entry, "#")
		entry = strings.TrimSpace(entry)
		file, isFile := strings.CutPrefix(entry, "@")
		if !isFile {
			if entry != "" {
				return true, nil
			}
			continue
		}
		text, err := os.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return false, fmt.Errorf("builders: %w", err)
		}
		if there, err := hasMachines(string(text), depth-1); there || err != nil {
			return there, err
		}
	}
	return false, nil
}
