// Package sign says what is signed of store objects and realisations, has the keys that
// sign it, and checks signatures by keys that somebody trusts. (Nix manual,
// "Signatures"; Nix: libutil/signature, ValidPathInfo::fingerprint,
// Realisation::fingerprint.)
package sign

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/kilnbuild/kiln/nix"
)

// Object is what is signed of a store object. It must have an archive hash and size.
func Object(dir nix.StoreDir, info *nix.PathInfo) (string, error) {
	if info.NARSize == 0 || info.NARHash.IsZero() {
		return "", fmt.Errorf("cannot calculate fingerprint of path '%s' because its size/hash is not known", dir.Join(info.Path))
	}
	references := make([]string, 0, len(info.References))
	for _, r := range slices.Compact(slices.Sorted(slices.Values(info.References))) {
		references = append(references, dir.Join(r))
	}
	return fmt.Sprintf("1;%s;sha256:%s;%d;%s", dir.Join(info.Path), info.NARHash.Nix32(), info.NARSize, strings.Join(references, ",")), nil
}

// Realisation is what is signed of a realisation by Nix since 2.35.
func Realisation(r *nix.Realisation) string {
	return printJSON(map[string]any{
		"key":   map[string]any{"drvPath": string(r.ID.Drv), "outputName": string(r.ID.Output)},
		"value": map[string]any{"outPath": string(r.OutPath)},
	})
}

// LegacyRealisation is what is signed of one by Nix before 2.35, which names an output
// "sha256:<base16>!<output>".
func LegacyRealisation(id string, p nix.StorePath) string { return LegacyRealisationWith(id, p, nil) }

// LegacyRealisationWith is LegacyRealisation where Nix 2.8 has added which other outputs
// it was built with.
func LegacyRealisationWith(id string, p nix.StorePath, dependent map[string]string) string {
	if dependent == nil {
		dependent = map[string]string{}
	}
	return printJSON(map[string]any{"dependentRealisations": dependent, "id": id, "outPath": string(p)})
}

// printJSON prints without spaces, with the names in order.
func printJSON(v any) string {
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		panic(err) // of texts and maps it has none
	}
	return strings.TrimSuffix(b.String(), "\n")
}
