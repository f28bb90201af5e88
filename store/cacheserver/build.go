package cacheserver

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/sign"
	"github.com/kilnbuild/kiln/store"
)

// log answers with the log of a build.
func (s *Server) log(w http.ResponseWriter, r *http.Request, name string) error {
	p, err := nix.ParseStorePath(name)
	if err != nil || !p.IsDerivation() {
		return store.ErrNotFound
	}
	log, err := s.store.BuildLog(r.Context(), p)
	if err != nil {
		return err
	}
	defer log.Close()
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	if r.Method == http.MethodHead {
		return nil
	}
	if _, err := io.Copy(w, log); err != nil {
		s.broken(r.Context(), err)
	}
	return nil
}

// legacyRealisation answers with what an output is, as Nix before 2.35 asks.
func (s *Server) legacyRealisation(w http.ResponseWriter, r *http.Request, name string) error {
	id, ok := strings.CutSuffix(name, ".doi")
	hash, output, named := strings.Cut(id, "!")
	if !ok || !named || !strings.HasPrefix(hash, "sha256:") || nix.CheckName(output) != nil {
		return store.ErrNotFound
	}
	found, err := s.store.LegacyRealisation(r.Context(), hash, nix.OutputName(output))
	if err != nil {
		return err
	}
	return s.json(w, r, map[string]any{
		"dependentRealisations": map[string]any{}, "id": id, "outPath": string(found.OutPath),
		"signatures": s.signatures(sign.LegacyRealisation(id, found.OutPath), found.Signatures),
	})
}

// realisation is the same as Nix since 2.35 asks.
func (s *Server) realisation(w http.ResponseWriter, r *http.Request, name string) error {
	drv, file, _ := strings.Cut(name, "/")
	output, ok := strings.CutSuffix(file, ".doi")
	p, err := nix.ParseStorePath(drv)
	if err != nil || !ok || nix.CheckName(output) != nil {
		return store.ErrNotFound
	}
	found, err := s.store.Realisation(r.Context(), nix.DrvOutput{Drv: p, Output: nix.OutputName(output)})
	if err != nil {
		return err
	}
	return s.json(w, r, map[string]any{"outPath": string(found.OutPath), "signatures": s.signatures(sign.Realisation(found), found.Signatures)})
}

// signatures gives those of a fingerprint: what others have signed, and our own.
func (s *Server) signatures(fingerprint string, others []string) []string {
	all := append([]string{}, others...)
	for _, k := range s.opts.Keys {
		all = append(all, k.Sign(fingerprint))
	}
	return all
}

func (s *Server) json(w http.ResponseWriter, r *http.Request, v any) error {
	text, err := json.Marshal(v)
	if err == nil {
		s.text(w, r, "application/json", text)
	}
	return err
}
