package binarycache

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kilnbuild/kiln/nix/conf"
	"github.com/kilnbuild/kiln/store/storetest"
)

// TestCredentials has a cache that wants a password and sends its clients elsewhere.
func TestCredentials(t *testing.T) {
	files := t.TempDir()
	writer, err := OpenDirectory(t.Context(), files, Options{Create: true, Compression: "none"})
	if err != nil {
		t.Fatal(err)
	}
	o := storetest.Built(t, dir, "o", false)
	storetest.Add(t, writer, o)
	var mu sync.Mutex
	told := make(map[string]bool) // what the other host was told of whom
	other := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		told[r.Header.Get("Authorization")+r.Header.Get("Referer")] = true
		mu.Unlock()
		http.FileServer(http.Dir(files)).ServeHTTP(w, r)
	}))
	defer other.Close()
	cache := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, password, _ := r.BasicAuth()
		switch {
		case user != "me" || password != "secret":
			http.Error(w, "who are you?", http.StatusUnauthorized)
		case strings.HasPrefix(r.URL.Path, "/nar/"):
			http.Redirect(w, r, other.URL+r.URL.Path, http.StatusFound)
		default:
			http.FileServer(http.Dir(files)).ServeHTTP(w, r)
		}
	}))
	defer cache.Close()
	host := strings.TrimPrefix(cache.URL, "http://")
	const netrc = "machine 127.0.0.1 login me password secret"
	for uri, text := range map[string]string{cache.URL: netrc, "http://me:secret@" + host: ""} {
		c, err := OpenHTTP(t.Context(), uri, Options{}, HTTPOptions{Netrc: text})
		if err != nil {
			t.Fatal(err)
		}
		storetest.Check(t, c, o)
		c.Close()
	}
	if len(told) != 1 || !told[""] {
		t.Errorf("the other host was told %v", told)
	}
	if _, err := OpenHTTP(t.Context(), "http://me:wrong@"+host, Options{}, HTTPOptions{}); err == nil || !strings.Contains(err.Error(), "401") || strings.Contains(err.Error(), "wrong") {
		t.Errorf("error %v", err)
	}
}

// TestCertificates has a server that wants to know who its clients are.
func TestCertificates(t *testing.T) {
	files := t.TempDir()
	if _, err := OpenDirectory(t.Context(), files, Options{Create: true}); err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(http.FileServer(http.Dir(files)))
	s.EnableHTTP2 = true
	s.TLS = &tls.Config{ClientAuth: tls.RequestClientCert, VerifyPeerCertificate: func(raw [][]byte, _ [][]*x509.Certificate) error {
		if len(raw) == 0 {
			return http.ErrNoCookie // any error
		}
		return nil
	}}
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	defer s.Close()
	pair := s.TLS.Certificates[0]
	authorities := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: pair.Certificate[0]})
	key, err := x509.MarshalPKCS8PrivateKey(pair.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	cert, keyFile := filepath.Join(t.TempDir(), "cert"), filepath.Join(t.TempDir(), "key")
	for name, text := range map[string][]byte{cert: authorities, keyFile: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key})} {
		if err := os.WriteFile(name, text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	open := func(parameters string, opts HTTPOptions) error {
		u, err := conf.ParseStoreURI(s.URL+parameters, "")
		if err != nil {
			t.Fatal(err)
		}
		opts.Attempts = 1
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		c, err := OpenURI(ctx, u, Options{}, opts)
		if err == nil {
			c.Close()
		}
		return err
	}
	client := "?tls-certificate=" + cert + "&tls-private-key=" + keyFile
	if err := open(client, HTTPOptions{Authorities: authorities}); err != nil {
		t.Error(err)
	}
	if err := open(client, HTTPOptions{Authorities: authorities, HTTP1: true}); err != nil {
		t.Error(err)
	}
	if err := open("", HTTPOptions{Authorities: authorities}); err == nil {
		t.Error("it was opened without a certificate")
	}
	if err := open(client, HTTPOptions{}); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("nobody vouches for the server: %v", err)
	}
	if err := open("?tls-certificate=/nowhere", HTTPOptions{}); err == nil || !strings.Contains(err.Error(), "client certificate") {
		t.Errorf("error %v", err)
	}
}
