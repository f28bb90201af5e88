package binarycache

import (
	"context"
	"crypto/tls"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/kilnbuild/kiln/nix/conf"
	"github.com/kilnbuild/kiln/nix/sign"
	"github.com/kilnbuild/kiln/store/sigv4"
)

// OpenDirectory opens the cache in a directory of this machine. With opts.Create the
// directory is made, too.
func OpenDirectory(ctx context.Context, path string, opts Options) (*Cache, error) {
	if opts.Create {
		if err := os.MkdirAll(path, 0o755); err != nil {
			return nil, fmt.Errorf("make binary cache: %w", err)
		}
	}
	return openCache(ctx, "file://"+path, directory{path}, opts)
}

// OpenHTTP opens the cache at a URL.
func OpenHTTP(ctx context.Context, url string, opts Options, web HTTPOptions) (*Cache, error) {
	w, err := newWeb(url, web)
	if err != nil {
		return nil, fmt.Errorf("open binary cache: %w", err)
	}
	return openCache(ctx, redacted(url), w, opts)
}

// OpenURI opens the cache that a store URI of the schemes file, http, https and s3 means.
// What the URI says goes before opts and http.
func OpenURI(ctx context.Context, u conf.StoreURI, opts Options, http HTTPOptions) (*Cache, error) {
	if err := readParams(u, &opts); err != nil {
		return nil, fmt.Errorf("open binary cache '%s': %w", u.Redacted(), err)
	}
	plain := u
	plain.Params = nil
	switch u.Scheme {
	case conf.SchemeFile:
		return OpenDirectory(ctx, u.Path, opts)
	case conf.SchemeHTTP, conf.SchemeHTTPS:
		err := http.readParams(u)
		var files *web
		if err == nil {
			files, err = newWeb(plain.String(), http)
		}
		if err != nil {
			return nil, fmt.Errorf("open binary cache '%s': %w", u.Redacted(), err)
		}
		return openCache(ctx, plain.Redacted(), files, opts)
	case conf.SchemeS3:
		b, err := newBucket(u, http, sigv4.Environment{Lookup: os.LookupEnv, Home: os.Getenv("HOME")})
		if err != nil {
			return nil, fmt.Errorf("open binary cache '%s': %w", u.Redacted(), err)
		}
		return openCache(ctx, b.address(), b, opts)
	}
	return nil, fmt.Errorf("store '%s' is no binary cache", u.Redacted())
}

func readParams(u conf.StoreURI, o *Options) error {
	if c := u.Params.Get("compression"); c != "" {
		o.Compression = c
	}
	if text := u.Params.Get("compression-level"); text != "" {
		level, err := strconv.Atoi(text)
		if err != nil || level < -1 || level > 22 {
			return fmt.Errorf("'%s' is no compression level", text)
		}
		o.Level = &level
	}
	o.Parallel = u.Bool("parallel-compression", o.Parallel)
	o.Listings = u.Bool("write-nar-listing", o.Listings)
	o.DebugInfo = u.Bool("index-debug-info", o.DebugInfo)
	if u.Params.Has("want-mass-query") {
		want := u.Bool("want-mass-query", false)
		o.WantMassQuery = &want
	}
	if text := u.Params.Get("priority"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil {
			return fmt.Errorf("'%s' is no priority", text)
		}
		o.Priority = &n
	}
	files := strings.FieldsFunc(u.Params.Get("secret-keys"), func(r rune) bool { return r == ',' || r == ' ' })
	if file := u.Params.Get("secret-key"); file != "" {
		files = append(files, file)
	}
	for _, file := range files {
		k, err := ReadSecretKey(file)
		if err != nil {
			return err
		}
		o.Keys = append(o.Keys, k)
	}
	return nil
}

// maxKeyFile is the longest key file that is read, in bytes.
const maxKeyFile = 4 << 10

// ReadSecretKey reads a key from a file.
func ReadSecretKey(file string) (sign.SecretKey, error) {
	info, err := os.Stat(file)
	if err == nil && info.Size() > maxKeyFile {
		err = fmt.Errorf("'%s' has more than %d bytes", file, maxKeyFile)
	}
	var text []byte
	if err == nil {
		text, err = os.ReadFile(file)
	}
	if err != nil {
		return sign.SecretKey{}, fmt.Errorf("read secret key: %w", err)
	}
	k, err := sign.ParseSecretKey(string(text))
	if err != nil {
		return sign.SecretKey{}, fmt.Errorf("file '%s': %w", file, err)
	}
	return k, nil
}

func (o *HTTPOptions) readParams(u conf.StoreURI) error {
	if n, err := strconv.Atoi(u.Params.Get("retry-attempts")); err == nil && n > 0 {
		o.Attempts = n
	}
	for name, d := range map[string]*time.Duration{"retry-delay": &o.Delay, "retry-delay-rate-limited": &o.RateLimited, "retry-max-delay": &o.MaxDelay} {
		if n, err := strconv.Atoi(u.Params.Get(name)); err == nil && n > 0 {
			*d = time.Duration(n) * time.Millisecond
		}
	}
	cert, key := u.Params.Get("tls-certificate"), u.Params.Get("tls-private-key")
	if cert == "" && key == "" {
		return nil
	}
	pair, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		return fmt.Errorf("read client certificate: %w", err)
	}
	o.Certificates = []tls.Certificate{pair}
	return nil
}

// Close closes connections that are kept alive.
func (c *Cache) Close() error {
	if h, ok := c.files.(distant); ok {
		h.idle()
	}
	return nil
}
