package builtin

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/http/httpproxy"

	"github.com/kilnbuild/kiln/nix/netrc"
)

// fetcher downloads files.
type fetcher struct {
	settings *FetchSettings
	warn     func(format string, args ...any)
	dial     *gate
	// transport never compresses: a fixed output is what the server has.
	transport *http.Transport
}

// maxRedirects is how often a server may send us on.
const maxRedirects = 20

func newFetcher(t *task) (*fetcher, error) {
	s := &t.Fetch
	roots := x509.NewCertPool() // never those of the system: a sandbox has none
	if len(s.CACertificates) > 0 && !roots.AppendCertsFromPEM(s.CACertificates) {
		return nil, errors.New("ssl-cert-file has no certificate in it")
	}
	proxies := &httpproxy.Config{HTTPProxy: s.Proxy.HTTP, HTTPSProxy: s.Proxy.HTTPS, NoProxy: s.Proxy.Not}
	proxyFor := proxies.ProxyFunc()
	f := &fetcher{settings: s, warn: t.warn, dial: newGate(s)}
	f.transport = &http.Transport{
		Proxy: func(r *http.Request) (*url.URL, error) {
			proxy, err := proxyFor(r.URL)
			if proxy != nil {
				f.dial.admit(proxy)
			}
			return proxy, err
		},
		DialContext:         f.dial.dial,
		TLSClientConfig:     &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout: s.ConnectTimeout,
		ForceAttemptHTTP2:   true,
		DisableCompression:  true,
	}
	return f, nil
}

func (f *fetcher) close() { f.transport.CloseIdleConnections() }

// get opens what is at an address. The caller closes it. What reading it fails
// with names the address.
func (f *fetcher) get(ctx context.Context, address string, ours bool) (io.ReadCloser, error) {
	u, err := url.Parse(address)
	if err != nil {
		return nil, fmt.Errorf("unable to download: %w", withoutPassword(err))
	}
	switch u.Scheme {
	case "file":
		// As everything here, a file is one that the sandbox shows.
		file, err := os.Open(u.Path)
		if err != nil {
			return nil, fmt.Errorf("unable to download '%s': %w", u.Redacted(), err)
		}
		return file, nil
	case "http", "https":
	default:
		return nil, fmt.Errorf("unable to download '%s': there is no way to fetch '%s:' here, only http, https and file", u.Redacted(), u.Scheme)
	}
	if ours {
		f.dial.admit(u)
	}
	d := &download{fetcher: f, ctx: ctx, url: u}
	d.client = &http.Client{Transport: d, CheckRedirect: func(r *http.Request, via []*http.Request) error {
		if len(via) > maxRedirects {
			return errTooManyRedirects
		}
		return nil
	}}
	return d, d.open()
}

var errTooManyRedirects = errors.New("too many redirects")

// withoutPassword keeps a URL that may have a password in it out of an error.
func withoutPassword(err error) error {
	var e *url.Error
	if errors.As(err, &e) {
		return e.Err
	}
	return err
}

// download is a file on its way. When the connection breaks, it goes on where it
// was: with the rest if the server can send that, or by passing over what it has
// already.
type download struct {
	*fetcher
	ctx     context.Context
	client  *http.Client
	url     *url.URL
	body    io.ReadCloser
	live    context.Context // of the connection
	cancel  context.CancelFunc
	stalled *time.Timer
	attempt int
	offset  int64
	version string // ETag of what came so far
}

// open asks the server until it answers with the file, or enough times.
func (d *download) open() error {
	for {
		err := d.ask()
		if err == nil {
			return nil
		}
		if err := d.again(err); err != nil {
			return err
		}
	}
}

// again waits before another attempt, or gives the error of the last one.
func (d *download) again(err error) error {
	d.Close()
	d.attempt++
	delay, temporary := d.delay(err)
	err = fmt.Errorf("unable to download '%s': %w", d.url.Redacted(), withoutPassword(err))
	if cause := context.Cause(d.ctx); cause != nil {
		return cause
	}
	if !temporary || d.attempt >= max(d.settings.Attempts, 1) {
		return err
	}
	d.warn("%v; retrying in %d ms (attempt %d/%d)", err, delay.Milliseconds(), d.attempt, d.settings.Attempts)
	timer := time.NewTimer(delay)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-d.ctx.Done():
		return context.Cause(d.ctx)
	}
}

// statusError is an answer without the file.
type statusError struct {
	code  int
	after time.Duration // Retry-After
	body  string
}

func (e *statusError) Error() string {
	text := fmt.Sprintf("HTTP error %d", e.code)
	if e.body != "" {
		text += "\n\nresponse body:\n\n" + e.body
	}
	return text
}

var errStalled = errors.New("nothing came for too long (stalled-download-timeout)")

// delay tells how long to wait after a failure, and whether that makes sense.
func (d *download) delay(err error) (delay time.Duration, temporary bool) {
	retry := &d.settings.Retry
	base := cmp.Or(retry.Delay, 250*time.Millisecond)
	var (
		status      *statusError
		certificate *tls.CertificateVerificationError
		refused     *refusedError
	)
	switch {
	case errors.As(err, &certificate), errors.As(err, &refused), errors.Is(err, errTooManyRedirects), errors.Is(err, errChanged):
		return 0, false
	case errors.As(err, &status):
		switch code := status.code; {
		case code == http.StatusTooManyRequests, code == http.StatusServiceUnavailable:
			base = max(base, retry.RateLimited, status.after)
		case code == http.StatusNotImplemented, code == http.StatusHTTPVersionNotSupported, code == http.StatusNetworkAuthenticationRequired:
			return 0, false
		case code != http.StatusRequestTimeout && code < 500:
			return 0, false
		}
	}
	delay = base << min(d.attempt-1, 10)
	if retry.Max > 0 {
		delay = min(delay, retry.Max)
	}
	if retry.Jitter {
		delay = delay/2 + rand.N(delay/2+1)
	}
	return delay, true
}

// maxErrorBody is how much of the text of a failure is shown, in bytes.
const maxErrorBody = 1 << 10

// ask makes one attempt to get the file, from where we are.
func (d *download) ask() error {
	ctx, cancel := context.WithCancelCause(d.ctx)
	d.live, d.cancel = ctx, func() { cancel(nil) }
	if d.settings.StalledTimeout > 0 {
		d.stalled = time.AfterFunc(d.settings.StalledTimeout, func() { cancel(errStalled) })
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, d.url.String(), nil)
	if err != nil {
		return err
	}
	request.Header.Set("User-Agent", cmp.Or(d.settings.UserAgent, "kiln"))
	if d.offset > 0 {
		request.Header.Set("Range", "bytes="+strconv.FormatInt(d.offset, 10)+"-")
		if d.version != "" {
			request.Header.Set("If-Range", d.version)
		}
	}
	answer, err := d.client.Do(request)
	if err != nil {
		return d.why(err)
	}
	d.body = answer.Body
	return d.accept(answer)
}

// why prefers the reason for which we have given up ourselves.
func (d *download) why(err error) error {
	if cause := context.Cause(d.live); errors.Is(cause, errStalled) {
		return cause
	}
	return err
}

var errChanged = errors.New("the server has another file now than the one that it began to send")

// accept looks whether an answer has the file, or the rest of it.
func (d *download) accept(answer *http.Response) error {
	version := answer.Header.Get("ETag")
	if strings.HasPrefix(version, "W/") {
		version = "" // says nothing about bytes
	}
	switch {
	case answer.StatusCode == http.StatusPartialContent && d.offset > 0:
		if !strings.HasPrefix(answer.Header.Get("Content-Range"), fmt.Sprintf("bytes %d-", d.offset)) {
			return errors.New("the server sent another part of the file than was asked for")
		}
		return nil
	case answer.StatusCode == http.StatusOK:
		if d.offset > 0 && version != d.version {
			return errChanged
		}
		d.version = version
		_, err := io.CopyN(io.Discard, alive{answer.Body, d}, d.offset)
		return d.why(err)
	}
	text, _ := io.ReadAll(io.LimitReader(answer.Body, 2*maxErrorBody))
	body := d.withoutSecrets(printable(string(text)))
	after, _ := strconv.Atoi(answer.Header.Get("Retry-After"))
	return &statusError{code: answer.StatusCode, after: time.Duration(max(after, 0)) * time.Second, body: body[:min(len(body), maxErrorBody)]}
}

// withoutSecrets keeps what a server says from having in it what we told the server:
// some repeat what they were asked.
func (d *download) withoutSecrets(text string) string {
	var told []netrc.Credentials
	if c, ok := netrc.Find(d.settings.Netrc, d.url.Hostname()); ok {
		told = append(told, c)
	}
	if password, ok := d.url.User.Password(); ok {
		told = append(told, netrc.Credentials{User: d.url.User.Username(), Password: password}, netrc.Credentials{Password: url.QueryEscape(password)})
	}
	for _, c := range told {
		if c.Password != "" {
			encoded := base64.StdEncoding.EncodeToString([]byte(c.User + ":" + c.Password))
			text = strings.NewReplacer(encoded, "xxxxx", c.Password, "xxxxx").Replace(text)
		}
	}
	return text
}

// printable keeps what a server says from being more than text.
func printable(text string) string {
	return strings.TrimSpace(strings.Map(func(c rune) rune {
		if c < ' ' && c != '\n' && c != '\t' || c == 0x7f || c >= 0x80 && c < 0xa0 || c == 0xfffd {
			return -1
		}
		return c
	}, text))
}

// alive puts off the time at which a download counts as stalled.
type alive struct {
	io.Reader
	d *download
}

func (a alive) Read(p []byte) (int, error) {
	n, err := a.Reader.Read(p)
	if n > 0 && a.d.stalled != nil {
		a.d.stalled.Reset(a.d.settings.StalledTimeout)
	}
	return n, err
}

// Read implements io.Reader.
func (d *download) Read(p []byte) (int, error) {
	for {
		n, err := alive{d.body, d}.Read(p)
		d.offset += int64(n)
		if err == nil || errors.Is(err, io.EOF) {
			return n, err
		}
		if n > 0 {
			return n, nil
		}
		if err := d.again(d.why(err)); err != nil {
			return 0, err
		}
		if err := d.open(); err != nil {
			return 0, err
		}
	}
}

// Close implements io.Closer.
func (d *download) Close() (err error) {
	if d.stalled != nil {
		d.stalled.Stop()
	}
	if d.cancel != nil {
		d.cancel()
	}
	if d.body != nil {
		err = d.body.Close()
		d.body = closedBody{}
	}
	return err
}

type closedBody struct{}

func (closedBody) Read([]byte) (int, error) { return 0, net.ErrClosed }
func (closedBody) Close() error             { return nil }

// RoundTrip adds the credentials for the server that the derivation names to what
// is sent to that one, and to no other: not where it sends us on to, and not in
// the clear if it was to be encrypted.
func (d *download) RoundTrip(r *http.Request) (*http.Response, error) {
	r = r.Clone(r.Context())
	r.Header.Del("Referer")
	if r.URL.Scheme != d.url.Scheme || r.URL.Host != d.url.Host {
		r.Header.Del("Authorization")
		return d.transport.RoundTrip(r)
	}
	if c, ok := netrc.Find(d.settings.Netrc, r.URL.Hostname()); ok && r.Header.Get("Authorization") == "" {
		r.SetBasicAuth(c.User, c.Password)
	}
	return d.transport.RoundTrip(r)
}
