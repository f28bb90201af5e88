package service

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/kilnbuild/kiln/daemon"
	"github.com/kilnbuild/kiln/executor/substitute"
	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/conf"
	"github.com/kilnbuild/kiln/nix/sign"
	"github.com/kilnbuild/kiln/store"
	"github.com/kilnbuild/kiln/store/local"
	"github.com/kilnbuild/kiln/wire/worker"
)

// clientStore is the store of the machine as a client sees it.
type clientStore struct {
	*local.Store
	keys *trustedKeys
	// builder is the client's, for repairs.
	builder func() nix.Builder
	// self says that the client has the rights of this process, and so can make links
	// wherever it can.
	self bool
}

var (
	_ store.Store            = clientStore{}
	_ store.BatchSource      = clientStore{}
	_ store.InfoSource       = clientStore{}
	_ store.ReferrerSource   = clientStore{}
	_ store.RealisationStore = clientStore{}
	_ store.TempRooter       = clientStore{}

	_ daemon.PathLister             = clientStore{}
	_ daemon.HashPartFinder         = clientStore{}
	_ daemon.DeriverSource          = clientStore{}
	_ daemon.DerivationSource       = clientStore{}
	_ daemon.ContentAdder           = clientStore{}
	_ daemon.LegacyRealisationStore = clientStore{}
	_ daemon.RealisationVerifier    = clientStore{}
	_ daemon.Signer                 = clientStore{}
	_ daemon.Substituter            = clientStore{}
	_ daemon.LogAdder               = clientStore{}
	_ daemon.Rooter                 = clientStore{}
	_ daemon.Optimiser              = clientStore{}
	_ daemon.Verifier               = clientStore{}
)

// collectedStore is a clientStore that garbage is collected in.
type collectedStore struct {
	clientStore
	daemon.Collector
}

// CollectGarbage implements daemon.Collector. Who has everything deleted expects an
// empty store directory.
func (s collectedStore) CollectGarbage(ctx context.Context, o *worker.CollectGarbage) (*worker.Collected, error) {
	if err := s.Vacate(); err != nil {
		return nil, err
	}
	return s.Collector.CollectGarbage(ctx, o)
}

// AddContent implements daemon.ContentAdder.
func (s clientStore) AddContent(ctx context.Context, o *worker.AddToStore, dump io.Reader) (*nix.PathInfo, error) {
	return s.Store.AddContent(ctx, o.Name, o.Method, o.Algorithm, o.References, dump)
}

// LegacyRealisation implements daemon.LegacyRealisationStore.
func (s clientStore) LegacyRealisation(ctx context.Context, id string) (*worker.LegacyRealisation, error) {
	hash, output, err := splitLegacy(id)
	if err != nil {
		return nil, err
	}
	r, err := s.Store.LegacyRealisation(ctx, hash, output)
	if err != nil {
		return nil, err
	}
	return &worker.LegacyRealisation{ID: id, OutPath: r.OutPath, Signatures: r.Signatures}, nil
}

// RegisterLegacyRealisation implements daemon.LegacyRealisationStore.
func (s clientStore) RegisterLegacyRealisation(ctx context.Context, r *worker.LegacyRealisation) error {
	hash, output, err := splitLegacy(r.ID)
	if err != nil {
		return err
	}
	return s.Store.RegisterLegacyRealisation(ctx, hash,
		&nix.Realisation{ID: nix.DrvOutput{Output: output}, OutPath: r.OutPath, Signatures: r.Signatures})
}

func splitLegacy(id string) (hash string, output nix.OutputName, err error) {
	hash, name, ok := strings.Cut(id, "!")
	if !ok {
		return "", "", fmt.Errorf("invalid derivation output id '%s'", id)
	}
	return hash, nix.OutputName(name), nil
}

// VerifyRealisation implements daemon.RealisationVerifier.
func (s clientStore) VerifyRealisation(fingerprint string, signatures []string) error {
	return s.keys.realisation(fingerprint, signatures)
}

// AddPermRoot implements daemon.Rooter. mounted-ssh-ng:// has links made that are not
// below the directory of roots.
func (s clientStore) AddPermRoot(ctx context.Context, link string, p nix.StorePath) error {
	if !s.self {
		return s.Store.AddPermRoot(ctx, link, p)
	}
	if _, err := s.PathInfo(ctx, p); err != nil {
		return err
	}
	return s.AddRoot(ctx, link, p)
}

// offering is a builder that knows what its substituters have.
type offering interface {
	Offers(ctx context.Context, paths []nix.StorePath, cas map[nix.StorePath]nix.ContentAddress, mass bool) ([]*substitute.Offer, error)
}

// offers asks the client's builder, whose settings say which substituters there are.
func (s clientStore) offers(ctx context.Context, paths []nix.StorePath, cas map[nix.StorePath]nix.ContentAddress, mass bool) ([]*substitute.Offer, error) {
	b, ok := s.builder().(offering)
	if !ok {
		return nil, nil
	}
	found, err := b.Offers(ctx, paths, cas, mass)
	return slices.DeleteFunc(found, func(o *substitute.Offer) bool { return o == nil }), err
}

// Substitutable implements daemon.Substituter.
func (s clientStore) Substitutable(ctx context.Context, paths map[nix.StorePath]nix.ContentAddress) ([]worker.Substitutable, error) {
	found, err := s.offers(ctx, slices.Sorted(maps.Keys(paths)), paths, false)
	if err != nil {
		return nil, err
	}
	all := make([]worker.Substitutable, len(found))
	for i, o := range found {
		all[i] = worker.Substitutable{
			Path: o.Info.Path, Deriver: o.Info.Deriver, References: o.Info.References, DownloadSize: o.DownloadSize, NARSize: o.Info.NARSize,
		}
	}
	return all, nil
}

// SubstitutablePaths implements daemon.Substituter.
func (s clientStore) SubstitutablePaths(ctx context.Context, paths []nix.StorePath) ([]nix.StorePath, error) {
	found, err := s.offers(ctx, paths, nil, true)
	if err != nil {
		return nil, err
	}
	all := make([]nix.StorePath, len(found))
	for i, o := range found {
		all[i] = o.Info.Path
	}
	return all, nil
}

// OptimiseStore implements daemon.Optimiser.
func (s clientStore) OptimiseStore(ctx context.Context) error {
	_, failed, err := s.Optimise(ctx, nil)
	if err == nil && failed > 0 {
		err = fmt.Errorf("optimise store: %d objects could not be; the daemon's own log says why", failed)
	}
	return err
}

// VerifyStore implements daemon.Verifier.
func (s clientStore) VerifyStore(ctx context.Context, o *worker.VerifyStore, log nix.LogSink) (wrong bool, err error) {
	opts := local.VerifyOptions{CheckContents: o.CheckContents, Forget: true, Problem: func(p local.Problem) {
		kind := nix.EventWarning
		if p.Forgotten {
			kind = nix.EventNotice
		}
		log.Event(nix.Event{Kind: kind, Message: p.String()})
	}}
	if o.Repair {
		opts.Repair = func(ctx context.Context, p nix.StorePath) error { return s.repair(ctx, p, log) }
	}
	n, err := s.Verify(ctx, opts)
	return n > 0, err
}

// repair fetches or builds an object again.
func (s clientStore) repair(ctx context.Context, p nix.StorePath, log nix.LogSink) error {
	results, err := s.builder().Build(ctx, &nix.BuildRequest{Paths: []nix.DerivedPath{nix.Opaque(p)}, Mode: nix.BuildRepair, Log: log})
	if err != nil {
		return err
	}
	if r := &results[0]; !r.Status.Success() {
		return errors.New(r.Message)
	}
	return nil
}

// trustedKeys check signatures by the settings of a connection, which may change.
type trustedKeys struct {
	dir nix.StoreDir
	// current gives the settings.
	current func() *conf.Settings
	// secrets are the files of our own keys, whose public halves are trusted as well.
	readFile func(name string) ([]byte, error)
}

// object checks what is to be added; it is local.Options.VerifySignatures.
func (k *trustedKeys) object(info *nix.PathInfo) error {
	s := k.current()
	if !s.RequireSigs {
		return nil
	}
	fingerprint, err := sign.Object(k.dir, info)
	if err != nil {
		return err
	}
	return k.check(s, fingerprint, info.Signatures)
}

func (k *trustedKeys) realisation(fingerprint string, signatures []string) error {
	s := k.current()
	if !s.RequireSigs {
		return nil
	}
	return k.check(s, fingerprint, signatures)
}

func (k *trustedKeys) check(s *conf.Settings, fingerprint string, signatures []string) error {
	if len(signatures) == 0 {
		return errors.New("it has no signature")
	}
	keys := make([]sign.PublicKey, 0, len(s.TrustedPublicKeys)+len(s.SecretKeyFiles))
	for _, text := range s.TrustedPublicKeys {
		public, err := sign.ParsePublicKey(text)
		if err != nil {
			return fmt.Errorf("setting 'trusted-public-keys': %w", err)
		}
		keys = append(keys, public)
	}
	for _, name := range s.SecretKeyFiles {
		text, err := k.readFile(name)
		if err != nil {
			continue // not ours to read
		}
		if secret, err := sign.ParseSecretKey(string(text)); err == nil {
			keys = append(keys, secret.Public())
		}
	}
	if !sign.NewKeys(keys...).Trusted(fingerprint, signatures) {
		return errors.New("none of its signatures is by a key of 'trusted-public-keys'")
	}
	return nil
}
