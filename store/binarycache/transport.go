package binarycache

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/kilnbuild/kiln/nix/netrc"
)

// newClient makes the client of a cache. It takes proxies from the environment.
func newClient(base string, opts HTTPOptions) (*http.Client, error) {
	t := http.DefaultTransport.(*http.Transport).Clone()
	// As many as ask at once: others would be closed after each.
	t.MaxIdleConnsPerHost = queries
	t.ResponseHeaderTimeout = min(opts.Stalled, time.Minute)
	// Archives are compressed; where they are not, their size is what is said.
	t.DisableCompression = true
	if opts.ConnectTimeout > 0 {
		t.DialContext = (&net.Dialer{Timeout: opts.ConnectTimeout, KeepAlive: 30 * time.Second}).DialContext
	}
	if opts.HTTP1 {
		t.ForceAttemptHTTP2 = false
		t.TLSNextProto = make(map[string]func(string, *tls.Conn) http.RoundTripper)
	}
	t.TLSClientConfig = &tls.Config{Certificates: opts.Certificates, MinVersion: tls.VersionTLS12}
	if len(opts.Authorities) > 0 {
		t.TLSClientConfig.RootCAs = x509.NewCertPool()
		if !t.TLSClientConfig.RootCAs.AppendCertsFromPEM(opts.Authorities) {
			return nil, errors.New("there is no certificate among the authorities of 'ssl-cert-file'")
		}
	}
	u, err := url.Parse(base)
	if err != nil {
		return nil, fmt.Errorf("parse URL: %w", err)
	}
	return &http.Client{Transport: &guarded{t, u, opts.Netrc}, CheckRedirect: checkRedirect}, nil
}

// withoutUser is a URL without the name and the password in it.
func withoutUser(text string) string {
	u, err := url.Parse(text)
	if err != nil || u.User == nil {
		return text
	}
	u.User = nil
	return u.String()
}

// redacted is a URL without the password in it, for messages.
func redacted(text string) string {
	u, err := url.Parse(text)
	if err != nil {
		return "a cache"
	}
	return u.Redacted()
}

// guarded adds credentials to what is sent to the cache, and to nobody else: not where
// it sends us on to.
type guarded struct {
	*http.Transport
	cache *url.URL
	netrc string
}

// RoundTrip implements http.RoundTripper.
func (g *guarded) RoundTrip(r *http.Request) (*http.Response, error) {
	known := g.cache.User != nil || g.netrc != ""
	if !known && r.Header.Get("Authorization") == "" && r.Header.Get("Referer") == "" {
		return g.Transport.RoundTrip(r)
	}
	r = r.Clone(r.Context())
	r.Header.Del("Referer")
	if r.URL.Scheme != g.cache.Scheme || r.URL.Host != g.cache.Host {
		r.Header.Del("Authorization")
		return g.Transport.RoundTrip(r)
	}
	if c, ok := netrc.Find(g.netrc, r.URL.Hostname()); ok && r.Header.Get("Authorization") == "" {
		r.SetBasicAuth(c.User, c.Password)
	}
	return g.Transport.RoundTrip(r)
}

// checkRedirect follows no redirect from https to http.
func checkRedirect(req *http.Request, via []*http.Request) error {
	const most = 10
	switch {
	case len(via) >= most:
		return fmt.Errorf("more than %d redirects", most)
	case via[0].URL.Scheme == "https" && req.URL.Scheme != "https":
		return fmt.Errorf("redirected from https to %s", req.URL.Scheme)
	}
	return nil
}
