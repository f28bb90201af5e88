package build

import (
	"fmt"
	"slices"
	"strings"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/drvopts"
)

// graph is the closure that a derivation asked to be told of, by the name that it
// gave it.
type graph map[string][]*nix.PathInfo

// referencesGraphs computes the closures of exportReferencesGraph. What is asked
// for must be among the inputs. A derivation in a closure adds the closures of its
// outputs, as outputs gives them.
func referencesGraphs(dir nix.StoreDir, o *drvopts.Options, inputs map[nix.StorePath]*nix.PathInfo, outputs func(drv nix.StorePath) ([]*nix.PathInfo, error)) (graph, error) {
	if len(o.ExportReferencesGraph) == 0 {
		return nil, nil
	}
	graphs := make(graph)
	for name, refs := range o.ExportReferencesGraph {
		seen := make(map[nix.StorePath]bool)
		var pending, drvs []nix.StorePath
		for _, r := range refs {
			pending = append(pending, r.Path)
		}
		for len(pending) > 0 {
			p := pending[len(pending)-1]
			pending = pending[:len(pending)-1]
			if seen[p] {
				continue
			}
			seen[p] = true
			info, ok := inputs[p]
			if !ok {
				return nil, nix.BuildErrorf(nix.StatusInputRejected,
					"cannot export references of path '%s' because it is not in the input closure of the derivation", dir.Join(p))
			}
			graphs[name] = append(graphs[name], info)
			pending = append(pending, info.References...)
			if p.IsDerivation() {
				drvs = append(drvs, p)
			}
		}
		for _, drv := range drvs {
			infos, err := outputs(drv)
			if err != nil {
				return nil, err
			}
			for _, info := range infos {
				if !seen[info.Path] {
					seen[info.Path] = true
					graphs[name] = append(graphs[name], info)
				}
			}
		}
		slices.SortFunc(graphs[name], func(a, b *nix.PathInfo) int { return strings.Compare(string(a.Path), string(b.Path)) })
	}
	return graphs, nil
}

// files are the closures as files in the build directory, in the form of
// `nix-store --load-db` without hashes.
func (g graph) files(dir nix.StoreDir) map[string]string {
	files := make(map[string]string, len(g))
	for name, infos := range g {
		var b strings.Builder
		for _, info := range infos {
			fmt.Fprintf(&b, "%s\n\n%d\n", dir.Join(info.Path), len(info.References))
			for _, r := range info.References {
				fmt.Fprintln(&b, dir.Join(r))
			}
		}
		files[name] = b.String()
	}
	return files
}

// objects are the closures as structured attributes have them.
func (g graph) objects() map[string][]drvopts.GraphObject {
	objects := make(map[string][]drvopts.GraphObject, len(g))
	for name, infos := range g {
		byPath := make(map[nix.StorePath]*nix.PathInfo, len(infos))
		for _, info := range infos {
			byPath[info.Path] = info
		}
		list := make([]drvopts.GraphObject, 0, len(infos))
		for _, info := range infos {
			list = append(list, drvopts.GraphObject{
				Path: info.Path, NARHash: info.NARHash, NARSize: info.NARSize, References: info.References, CA: info.CA,
				ClosureSize: closureSize(byPath, info.Path),
			})
		}
		objects[name] = list
	}
	return objects
}

// closureSize sums the archive sizes of everything that can be reached from p.
func closureSize(infos map[nix.StorePath]*nix.PathInfo, p nix.StorePath) int64 {
	var size int64
	seen := make(map[nix.StorePath]bool)
	pending := []nix.StorePath{p}
	for len(pending) > 0 {
		p := pending[len(pending)-1]
		pending = pending[:len(pending)-1]
		if seen[p] || infos[p] == nil {
			continue
		}
		seen[p] = true
		size += infos[p].NARSize
		pending = append(pending, infos[p].References...)
	}
	return size
}
