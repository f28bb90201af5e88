package outputs

import (
	"context"
	"slices"
	"strings"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/drvopts"
)

// check holds outputs to what the derivation says of them: sizes, and what they
// may and may not refer to (Nix manual, "Advanced attributes"). Messages are those
// of Nix.
func (c *collector) check(ctx context.Context, all []*made) error {
	if c.job.Checks == nil {
		return nil
	}
	k := &checker{collector: c, byPath: make(map[nix.StorePath]*nix.PathInfo), byName: make(map[nix.OutputName]nix.StorePath)}
	for _, f := range c.seen {
		k.byName[f.Name] = c.final[f.Scratch]
	}
	for _, m := range all {
		k.byPath[m.Info.Path] = &m.Info
	}
	for _, m := range all {
		checks := c.job.Checks(m.Output)
		if checks == nil {
			continue
		}
		if err := k.output(ctx, &m.Info, m.Output, checks); err != nil {
			return err
		}
	}
	return nil
}

type checker struct {
	*collector
	byPath map[nix.StorePath]*nix.PathInfo // what is not valid yet
	byName map[nix.OutputName]nix.StorePath
}

func (k *checker) output(ctx context.Context, info *nix.PathInfo, name nix.OutputName, checks *drvopts.OutputChecks) error {
	path := k.store.Dir().Join(info.Path)
	if checks.MaxSize != nil && uint64(info.NARSize) > *checks.MaxSize {
		return nix.BuildErrorf(nix.StatusOutputRejected, "path '%s' is too large at %d bytes; limit is %d bytes", path, info.NARSize, *checks.MaxSize)
	}
	var closure []nix.StorePath
	var size uint64
	if checks.MaxClosureSize != nil || checks.AllowedRequisites != nil || checks.DisallowedRequisites != nil {
		var err error
		if closure, size, err = k.closure(ctx, info.Path); err != nil {
			return err
		}
	}
	if checks.MaxClosureSize != nil && size > *checks.MaxClosureSize {
		return nix.BuildErrorf(nix.StatusOutputRejected, "closure of path '%s' is too large at %d bytes; limit is %d bytes", path, size, *checks.MaxClosureSize)
	}
	if checks.IgnoreSelfReferences {
		closure = slices.DeleteFunc(closure, func(p nix.StorePath) bool { return p == info.Path })
	}
	for _, rule := range []struct {
		stated  []drvopts.Reference
		used    []nix.StorePath
		allowed bool
	}{
		{checks.AllowedReferences, info.References, true},
		{checks.AllowedRequisites, closure, true},
		{checks.DisallowedReferences, info.References, false},
		{checks.DisallowedRequisites, closure, false},
	} {
		if rule.stated == nil {
			continue // an empty list allows nothing, none allows all
		}
		stated, err := k.resolve(name, rule.stated)
		if err != nil {
			return err
		}
		var bad []string
		for _, p := range rule.used {
			if slices.Contains(stated, p) != rule.allowed {
				bad = append(bad, "\n  "+k.store.Dir().Join(p))
			}
		}
		if len(bad) > 0 {
			slices.Sort(bad)
			return nix.BuildErrorf(nix.StatusOutputRejected, "output '%s' is not allowed to refer to the following paths:%s", path, strings.Join(bad, ""))
		}
	}
	return nil
}

// resolve gives the paths that references stand for.
func (k *checker) resolve(output nix.OutputName, refs []drvopts.Reference) ([]nix.StorePath, error) {
	paths := make([]nix.StorePath, 0, len(refs))
	for _, r := range refs {
		if r.Path != "" {
			paths = append(paths, r.Path)
			continue
		}
		p, ok := k.byName[r.Output]
		if !ok {
			var valid []string
			for name := range k.byName {
				valid = append(valid, string(name))
			}
			slices.Sort(valid)
			return nil, nix.BuildErrorf(nix.StatusOutputRejected,
				"derivation '%s' output check for '%s' contains output name '%s', but this is not a valid output of this derivation. (Valid outputs are [%s].)",
				k.store.Dir().Join(k.job.DrvPath), output, r.Output, strings.Join(valid, ", "))
		}
		paths = append(paths, p)
	}
	return paths, nil
}

// closure gives what can be reached from p, and the sum of the archive sizes.
func (k *checker) closure(ctx context.Context, p nix.StorePath) (paths []nix.StorePath, size uint64, err error) {
	seen := map[nix.StorePath]bool{p: true}
	pending := []nix.StorePath{p}
	for len(pending) > 0 {
		p := pending[len(pending)-1]
		pending = pending[:len(pending)-1]
		info := k.byPath[p]
		if info == nil {
			if info, err = k.store.PathInfo(ctx, p); err != nil {
				return nil, 0, err
			}
		}
		paths = append(paths, p)
		size += uint64(info.NARSize)
		for _, r := range info.References {
			if !seen[r] {
				seen[r] = true
				pending = append(pending, r)
			}
		}
	}
	return paths, size, nil
}
