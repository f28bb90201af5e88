package binarycache

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"
)

// HTTPOptions are the choices for caches behind HTTP. A field that is zero stands for
// what is said there.
type HTTPOptions struct {
	// Client makes the requests; nil stands for one of its own, which keeps connections
	// alive and takes proxies from the environment.
	Client *http.Client
	// Attempts is how often a request is made that fails for what may pass; 0 for 5.
	Attempts int
	// Delay is how long to wait before the second attempt, and twice as long before
	// each further one; 0 for a quarter of a second.
	Delay time.Duration
	// MaxDelay is the longest wait that this leads to; 0 for a minute. RateLimited is
	// what stands for Delay after an answer that asks for fewer requests; 0 for Delay.
	MaxDelay, RateLimited time.Duration
	// Stalled is how long a download may bring nothing; 0 for 5 minutes.
	Stalled   time.Duration
	UserAgent string

	// The following are of no effect with a Client.

	// ConnectTimeout is how long connecting may take; 0 leaves it to the system.
	ConnectTimeout time.Duration
	// HTTP1 speaks no later version of HTTP.
	HTTP1 bool
	// Netrc is the text of a netrc file. What it has for the cache's host is told to
	// that host and to no other.
	Netrc string
	// Authorities are those that may vouch for the server, as PEM; those of the system
	// if it is empty.
	Authorities []byte
	// Certificates are shown to the server.
	Certificates []tls.Certificate
}

// web has the files of a cache behind HTTP. Those that are put there are kept in a
// temporary file until they are complete.
type web struct {
	base string // without a slash at the end
	opts HTTPOptions
	// sign, if set, prepares every request at last; explain says why one was refused.
	sign    func(*http.Request)
	explain func(*http.Response) (code, text string)
}

func newWeb(base string, opts HTTPOptions) (*web, error) {
	base = strings.TrimSuffix(base, "/")
	if opts.Attempts <= 0 {
		opts.Attempts = 5
	}
	if opts.Delay <= 0 {
		opts.Delay = 250 * time.Millisecond
	}
	if opts.MaxDelay <= 0 {
		opts.MaxDelay = time.Minute
	}
	if opts.Stalled <= 0 {
		opts.Stalled = 5 * time.Minute
	}
	if opts.Client == nil {
		var err error
		if opts.Client, err = newClient(base, opts); err != nil {
			return nil, err
		}
	}
	return &web{base: base, opts: opts}, nil
}

// A statusError is an answer that is not what was asked for.
type statusError struct {
	status string
	code   int
	url    string
	// reason is what the service calls it, and text what it says about it; "" where it
	// does not.
	reason, text string
}

func (e *statusError) Error() string {
	if e.reason != "" {
		return fmt.Sprintf("'%s': HTTP status %s: %s: %s", e.url, e.status, e.reason, e.text)
	}
	return fmt.Sprintf("'%s': HTTP status %s", e.url, e.status)
}

// Unwrap says that there is no such file. Some buckets do not let anybody know; but that
// whoever asks is not who he says he is means something else.
func (e *statusError) Unwrap() error {
	switch e.code {
	case http.StatusNotFound:
		if e.reason == noSuchBucket {
			return nil
		}
		return fs.ErrNotExist
	case http.StatusGone:
		return fs.ErrNotExist
	case http.StatusForbidden:
		if e.reason == "" || e.reason == accessDenied {
			return fs.ErrNotExist
		}
	}
	return nil
}

// passes tells whether it may work the next time.
func passes(err error) bool {
	if lookup := (*net.DNSError)(nil); errors.As(err, &lookup) && lookup.IsNotFound {
		return false
	}
	var status *statusError
	if errors.As(err, &status) {
		return status.code >= 500 && status.code != http.StatusNotImplemented || status.code == http.StatusTooManyRequests || status.code == http.StatusRequestTimeout
	}
	return true
}

// do makes a request, more than once if it has to be. The body is the caller's.
func (h *web) do(ctx context.Context, method, name string, prepare func(*http.Request) error) (*http.Response, error) {
	for attempt := 1; ; attempt++ {
		resp, err := h.once(ctx, method, name, prepare)
		if err == nil {
			return resp, nil
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if attempt >= h.opts.Attempts || !passes(err) {
			return nil, err
		}
		if err := h.wait(ctx, attempt, err); err != nil {
			return nil, err
		}
	}
}

// wait waits after an attempt that failed.
func (h *web) wait(ctx context.Context, attempt int, failed error) error {
	delay := h.opts.Delay
	if status := (*statusError)(nil); errors.As(failed, &status) && (status.code == http.StatusTooManyRequests || status.code == http.StatusServiceUnavailable) {
		delay = max(delay, h.opts.RateLimited)
	}
	delay = min(delay<<min(attempt-1, 10), h.opts.MaxDelay)
	delay += time.Duration(rand.Int64N(int64(delay)/2 + 1))
	select {
	case <-time.After(delay):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (h *web) once(ctx context.Context, method, name string, prepare func(*http.Request) error) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, h.base+"/"+name, nil)
	if err != nil {
		return nil, err
	}
	if h.opts.UserAgent != "" {
		req.Header.Set("User-Agent", h.opts.UserAgent)
	}
	if prepare != nil {
		if err := prepare(req); err != nil {
			return nil, err
		}
	}
	if h.sign != nil {
		h.sign(req)
	}
	resp, err := h.opts.Client.Do(req)
	if err != nil {
		return nil, err
	}
	if resp.StatusCode/100 == 2 {
		return resp, nil
	}
	defer resp.Body.Close()
	e := &statusError{status: resp.Status, code: resp.StatusCode, url: req.URL.Redacted()}
	if h.explain != nil {
		e.reason, e.text = h.explain(resp)
	}
	return nil, e
}

// address is what is remembered of the cache by.
func (h *web) address() string { return withoutUser(h.base) }

// idle ends connections that nobody uses.
func (h *web) idle() { h.opts.Client.CloseIdleConnections() }

func (h *web) exists(ctx context.Context, name string) (bool, error) {
	resp, err := h.do(ctx, http.MethodHead, name, nil)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	} else if err != nil {
		return false, err
	}
	return true, resp.Body.Close()
}

func (h *web) open(ctx context.Context, name string) (io.ReadCloser, error) {
	d := &download{h: h, ctx: ctx, name: name}
	return d, d.start()
}

func (h *web) spool() (*os.File, error) { return os.CreateTemp("", "kiln-upload-") }

func (h *web) put(ctx context.Context, name, kind string, spool *os.File, size int64) error {
	defer discard(spool)
	resp, err := h.do(ctx, http.MethodPut, name, func(req *http.Request) error {
		req.Header.Set("Content-Type", kind)
		req.ContentLength = size
		// A section and not the file: the client closes what it has sent.
		req.Body = io.NopCloser(io.NewSectionReader(spool, 0, size))
		return nil
	})
	if err != nil {
		return fmt.Errorf("upload: %w", err)
	}
	return resp.Body.Close()
}

// A download is a file that comes. When the connection breaks, it goes on from there
// with another one.
type download struct {
	h       *web
	ctx     context.Context
	name    string
	body    io.ReadCloser
	tag     string // what the server calls this content, "" if it does not
	done    int64
	attempt int
	stop    context.CancelCauseFunc // of the request
	clock   *time.Timer
}

var errStalled = errors.New("nothing more came")

// start makes the request, for what is left.
func (d *download) start() error {
	ctx, cancel := context.WithCancelCause(d.ctx)
	resp, err := d.h.do(ctx, http.MethodGet, d.name, func(req *http.Request) error {
		if d.done > 0 {
			req.Header.Set("Range", "bytes="+strconv.FormatInt(d.done, 10)+"-")
			if d.tag != "" {
				req.Header.Set("If-Range", d.tag)
			}
		}
		return nil
	})
	if err != nil {
		cancel(nil)
		return err
	}
	d.clock = time.AfterFunc(d.h.opts.Stalled, func() { cancel(errStalled) })
	tag := resp.Header.Get("ETag")
	if strings.HasPrefix(tag, "W/") {
		tag = "" // not good for parts
	}
	if d.done > 0 && resp.StatusCode != http.StatusPartialContent {
		// The server begins again. What came before is passed over, if it is the same.
		if d.tag != "" && tag != d.tag {
			err = errors.New("it has changed since")
		} else {
			_, err = io.CopyN(ticking{d}, resp.Body, d.done)
		}
		if err != nil {
			d.clock.Stop()
			resp.Body.Close()
			cancel(nil)
			return err
		}
	}
	d.tag, d.body, d.stop = tag, resp.Body, cancel
	d.clock.Reset(d.h.opts.Stalled)
	return nil
}

// ticking takes note that something comes.
type ticking struct{ d *download }

func (t ticking) Write(p []byte) (int, error) {
	t.d.clock.Reset(t.d.h.opts.Stalled)
	return len(p), nil
}

// end ends the request.
func (d *download) end() {
	if d.body != nil {
		d.clock.Stop()
		d.body.Close()
		d.stop(nil)
		d.body = nil
	}
}

func (d *download) Read(p []byte) (int, error) {
	for {
		if d.body == nil {
			return 0, errors.New("download: it has ended")
		}
		n, err := d.body.Read(p)
		d.done += int64(n)
		if n > 0 {
			d.clock.Reset(d.h.opts.Stalled)
			d.attempt = 0
			return n, nil // an error comes again
		}
		if err == nil || err == io.EOF {
			return n, err
		}
		d.end()
		if cause := context.Cause(d.ctx); cause != nil {
			return 0, cause
		}
		if d.attempt++; d.attempt >= d.h.opts.Attempts {
			return 0, fmt.Errorf("download '%s': %w", d.name, err)
		}
		if err := d.h.wait(d.ctx, d.attempt, err); err != nil {
			return 0, err
		}
		if err := d.start(); err != nil {
			return 0, fmt.Errorf("go on with the download of '%s' at byte %d: %w", d.name, d.done, err)
		}
	}
}

func (d *download) Close() error {
	d.end()
	return nil
}
