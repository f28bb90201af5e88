package builtin

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"
)

// Request is everything that a builder of this package is told.
type Request struct {
	Builder string            // "builtin:fetchurl", …
	Env     map[string]string // the derivation's variables
	Outputs map[string]string // the path to write to, by name of the output
	TempDir string            // a directory for what is only needed on the way

	// Impure says that a fetch may give something else each time; Fixed has the hash
	// that the output must have otherwise. A derivation with neither may fetch
	// nothing.
	Impure bool
	Fixed  *FixedHash

	Fetch FetchSettings
}

// FixedHash is the hash of a fixed output.
type FixedHash struct {
	Flat      bool   // of the bytes of a file, not of an archive
	Algorithm string // "sha256", …
	Base16    string
}

// FetchSettings steer builtin:fetchurl. Their names are those of nix.conf.
type FetchSettings struct {
	Netrc          string        // content of netrc-file
	CACertificates []byte        // content of ssl-cert-file, PEM; those of the system if it is empty
	HashedMirrors  []string      // where files are found by their hash, tried first
	Attempts       int           // download-attempts; 0 stands for 1
	ConnectTimeout time.Duration // connect-timeout; 0 for none
	StalledTimeout time.Duration // stalled-download-timeout; 0 for none
	Retry          RetrySettings
	AllowLoopback  bool // allow-loopback-downloads
	Proxy          ProxySettings
	UserAgent      string
}

// RetrySettings say how long to wait before another attempt. The time doubles with
// each.
type RetrySettings struct {
	Delay       time.Duration // filetransfer-retry-delay; 0 for a quarter of a second
	RateLimited time.Duration // filetransfer-retry-delay-rate-limited: where the server has asked for less
	Max         time.Duration // filetransfer-retry-max-delay; 0 for no limit
	Jitter      bool          // filetransfer-retry-jitter: some time at random, at least half of it
}

// ProxySettings are the URLs of proxies, and a list of hosts that are reached
// without: what the variables http_proxy, https_proxy and no_proxy have.
type ProxySettings struct{ HTTP, HTTPS, Not string }

// maxRequest bounds an encoded Request, in bytes. Derivations have attributes of
// some megabytes at most.
const maxRequest = 64 << 20

// Encode writes the form that Main reads.
func (r *Request) Encode(w io.Writer) error {
	if err := json.NewEncoder(w).Encode(r); err != nil {
		return fmt.Errorf("write request for '%s': %w", r.Builder, err)
	}
	return nil
}

// DecodeRequest reads what Encode has written.
func DecodeRequest(r io.Reader) (*Request, error) {
	limited := &io.LimitedReader{R: r, N: maxRequest}
	decoder := json.NewDecoder(limited)
	decoder.DisallowUnknownFields()
	var request Request
	err := decoder.Decode(&request)
	if err != nil && limited.N == 0 {
		err = errors.New("it is too long")
	}
	if err != nil {
		return nil, fmt.Errorf("read request for a builtin builder: %w", err)
	}
	return &request, nil
}

// attribute gives a variable that has to be there.
func (r *Request) attribute(name string) (string, error) {
	value, ok := r.Env[name]
	if !ok {
		return "", fmt.Errorf("attribute '%s' missing", name)
	}
	return value, nil
}

// out gives the path of the output "out".
func (r *Request) out() (string, error) {
	path, ok := r.Outputs["out"]
	if !ok {
		return "", fmt.Errorf("'%s' requires an 'out' output", r.Builder)
	}
	return path, nil
}
