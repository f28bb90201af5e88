package rpc

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"maps"
	"math/big"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	kilnv1 "github.com/kilnbuild/kiln/api/kiln/v1"
	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/aterm"
	"github.com/kilnbuild/kiln/store"
	"github.com/kilnbuild/kiln/store/storetest"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// authority makes certificates.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	a := &authority{t: t}
	a.cert, a.key = a.make(&x509.Certificate{
		Subject: pkix.Name{CommonName: "authority"}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}, nil, nil)
	return a
}

func (a *authority) make(template, parent *x509.Certificate, parentKey *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	if parent == nil {
		parent, parentKey = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, parentKey)
	if err != nil {
		a.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return cert, key
}

// issue makes a certificate for a name that is good until a time, for clients and servers
// unless it is said what for.
func (a *authority) issue(name string, until time.Time, usage ...x509.ExtKeyUsage) tls.Certificate {
	if len(usage) == 0 {
		usage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}
	}
	cert, key := a.make(&x509.Certificate{
		Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: until, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: usage,
	}, a.cert, a.key)
	return tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: key}
}

func (a *authority) pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(a.cert)
	return p
}

// keeper is a store in memory with what a Server wants besides.
type keeper struct{ *storetest.Memory }

func (keeper) AddTempRoot(context.Context, ...nix.StorePath) error { return nil }
func (keeper) Hasher() *aterm.Hasher                               { return nil }
func (keeper) AddDerivation(context.Context, *nix.Derivation) (nix.StorePath, error) {
	return "", store.ErrNotFound
}

// TestCertificates has clients with all kinds of certificates ask for all kinds of things.
func TestCertificates(t *testing.T) {
	ours, foreign := newAuthority(t), newAuthority(t)
	later := time.Now().Add(time.Hour)
	roles := map[string]kilnv1.Role{
		"watcher": kilnv1.Role_ROLE_WATCH, "scheduler": kilnv1.Role_ROLE_SUBMIT, "boss": kilnv1.Role_ROLE_ADMIN, "revoked": kilnv1.Role_ROLE_UNSPECIFIED,
	}
	var access atomic.Pointer[Access]
	access.Store(&Access{Certificates: roles})
	s, err := New(Config{
		Enter: at(keeper{storetest.NewMemory(nix.DefaultStoreDir)}, nil), StoreDir: nix.DefaultStoreDir, Dir: t.TempDir(), Access: access.Load,
	})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		if err := s.Serve(l, MutualTLS(&tls.Config{Certificates: []tls.Certificate{ours.issue("server", later)}, ClientCAs: ours.pool()})); err != nil {
			t.Error(err)
		}
	})
	defer serving.Wait()
	defer s.Close()

	for _, c := range []struct {
		name         string
		certificates []tls.Certificate
		roots        *x509.CertPool
		watch        codes.Code
		cancel       codes.Code // of a build that there is not
		drain        codes.Code
	}{
		{"watcher", []tls.Certificate{ours.issue("watcher", later)}, ours.pool(), codes.OK, codes.PermissionDenied, codes.PermissionDenied},
		{"scheduler", []tls.Certificate{ours.issue("scheduler", later)}, ours.pool(), codes.OK, codes.NotFound, codes.PermissionDenied},
		{"boss", []tls.Certificate{ours.issue("boss", later)}, ours.pool(), codes.OK, codes.NotFound, codes.OK},
		{"revoked role", []tls.Certificate{ours.issue("revoked", later)}, ours.pool(), codes.PermissionDenied, codes.PermissionDenied, codes.PermissionDenied},
		{"unknown name", []tls.Certificate{ours.issue("somebody", later)}, ours.pool(), codes.PermissionDenied, codes.PermissionDenied, codes.PermissionDenied},
		{"expired", []tls.Certificate{ours.issue("boss", time.Now().Add(-time.Minute))}, ours.pool(), codes.Unavailable, codes.Unavailable, codes.Unavailable},
		{"foreign", []tls.Certificate{foreign.issue("boss", later)}, ours.pool(), codes.Unavailable, codes.Unavailable, codes.Unavailable},
		{"wrong: for servers", []tls.Certificate{ours.issue("boss", later, x509.ExtKeyUsageServerAuth)}, ours.pool(), codes.Unavailable, codes.Unavailable, codes.Unavailable},
		{"none", nil, ours.pool(), codes.Unavailable, codes.Unavailable, codes.Unavailable},
		{"server of others", []tls.Certificate{ours.issue("boss", later)}, foreign.pool(), codes.Unavailable, codes.Unavailable, codes.Unavailable},
	} {
		t.Run(c.name, func(t *testing.T) {
			client, err := connect(Address{"tcp", l.Addr().String()}, &tls.Config{Certificates: c.certificates, RootCAs: c.roots})
			if err != nil {
				t.Fatal(err)
			}
			defer client.Close()
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			_, err = client.Executor.ListBuilds(ctx, &kilnv1.ListBuildsRequest{})
			if got := status.Code(err); got != c.watch {
				t.Errorf("list: %v", err)
			}
			_, err = client.Executor.CancelBuild(ctx, &kilnv1.CancelBuildRequest{Id: "none"})
			if got := status.Code(err); got != c.cancel {
				t.Errorf("cancel: %v", err)
			}
			_, err = client.Executor.Drain(ctx, &kilnv1.DrainRequest{Resume: true})
			if got := status.Code(err); got != c.drain {
				t.Errorf("drain: %v", err)
			}
		})
	}
	t.Run("role revoked while it is connected", func(t *testing.T) {
		client, err := connect(Address{"tcp", l.Addr().String()}, &tls.Config{Certificates: []tls.Certificate{ours.issue("scheduler", later)}, RootCAs: ours.pool()})
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		list := func() codes.Code {
			_, err := client.Executor.ListBuilds(t.Context(), &kilnv1.ListBuildsRequest{})
			return status.Code(err)
		}
		if got := list(); got != codes.OK {
			t.Errorf("before: %v", got)
		}
		fewer := maps.Clone(roles)
		delete(fewer, "scheduler")
		access.Store(&Access{Certificates: fewer})
		if got := list(); got != codes.PermissionDenied {
			t.Errorf("after: %v", got)
		}
	})
	if _, err := Dial(t.Context(), Address{"tcp", "192.0.2.1:1"}, nil); err == nil {
		t.Error("a client talks to another machine without encryption")
	}
}

// TestFailureKinds holds the numbers of failures in both vocabularies together.
func TestFailureKinds(t *testing.T) {
	for kind := range nix.FailureInterrupted + 1 {
		name := kilnv1.FailureKind(kind).String()
		if want := map[nix.FailureKind]string{
			nix.FailureOther: "OTHER", nix.FailureOutOfMemory: "OUT_OF_MEMORY", nix.FailureNoSpace: "NO_SPACE", nix.FailureLogSize: "LOG_SIZE",
			nix.FailureNotHere: "NOT_HERE", nix.FailureDependency: "DEPENDENCY", nix.FailureInterrupted: "INTERRUPTED",
		}[kind]; want != "" && name != "FAILURE_KIND_"+want {
			t.Errorf("%v is %s", kind, name)
		}
	}
}
