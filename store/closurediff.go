package store

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/kilnbuild/kiln/nix"
)

// closurePackages has sizes by the names of packages and their versions.
type closurePackages map[string]map[string]int64

func packagesOf(infos map[nix.StorePath]*nix.PathInfo) closurePackages {
	all := make(closurePackages)
	for p, info := range infos {
		name, version := splitVersion(withoutOutput(p.Name()))
		if all[name] == nil {
			all[name] = make(map[string]int64)
		}
		all[name][version] += info.NARSize
	}
	return all
}

// withoutOutput takes off a word at the end that may be the name of an output, as
// Nix does: nobody can tell "bin" from a version "unstable".
func withoutOutput(name string) string {
	i := strings.LastIndexByte(name, '-')
	if i < 0 || i == len(name)-1 {
		return name
	}
	word := name[i+1:]
	if word == "lib32" || word == "lib64" || strings.Trim(word, "abcdefghijklmnopqrstuvwxyz") == "" {
		return name[:i]
	}
	return name
}

// splitVersion splits the name of a derivation: the version begins after the first
// dash that no letter follows (Nix manual, builtins.parseDrvName).
func splitVersion(full string) (name, version string) {
	for i := 0; i+1 < len(full); i++ {
		c := full[i+1]
		if full[i] == '-' && !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z') {
			return full[:i], full[i+1:]
		}
	}
	return full, ""
}

// remarkableSize is by how much a package has to change to be named for it, in bytes.
const remarkableSize = 8 << 10

// DiffClosures tells, a line for each package, which versions are in one closure and
// not in the other, and by how many KiB the size of the package changed, from 8 KiB
// on. (Nix: `nix store diff-closures`.)
func DiffClosures(before, after map[nix.StorePath]*nix.PathInfo) []string {
	return diffPackages(packagesOf(before), packagesOf(after))
}

func diffPackages(before, after closurePackages) (lines []string) {
	names := make(map[string]bool)
	for _, closure := range []closurePackages{before, after} {
		for name := range closure {
			names[name] = true
		}
	}
	for _, name := range slices.Sorted(maps.Keys(names)) {
		var size int64
		for _, n := range after[name] {
			size += n
		}
		for _, n := range before[name] {
			size -= n
		}
		removed, added := missingFrom(before[name], after[name]), missingFrom(after[name], before[name])
		var items []string
		if len(removed)+len(added) > 0 {
			items = append(items, showVersions(removed)+" → "+showVersions(added))
		}
		if max(size, -size) >= remarkableSize {
			items = append(items, fmt.Sprintf("%+.1f KiB", float64(size)/1024))
		}
		if len(items) > 0 {
			lines = append(lines, name+": "+strings.Join(items, ", "))
		}
	}
	return lines
}

func missingFrom(these, those map[string]int64) (versions []string) {
	for v := range these {
		if _, ok := those[v]; !ok {
			versions = append(versions, v)
		}
	}
	slices.Sort(versions)
	return versions
}

// showVersions prints versions: "∅" for none, "ε" for one without a version.
func showVersions(versions []string) string {
	if len(versions) == 0 {
		return "∅"
	}
	shown := make([]string, len(versions))
	for i, v := range versions {
		if shown[i] = v; v == "" {
			shown[i] = "ε"
		}
	}
	return strings.Join(shown, ", ")
}
