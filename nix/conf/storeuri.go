package conf

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
)

// The schemes of a StoreURI.
const (
	SchemeAuto   = "auto"   // local or daemon, see DefaultStore
	SchemeLocal  = "local"  // a store on this machine, opened directly; Path is its root, or ""
	SchemeDaemon = "unix"   // a daemon on this machine; Path is its socket, or "" for the usual one
	SchemeSSH    = "ssh"    // nix-store --serve over SSH
	SchemeSSHNG  = "ssh-ng" // nix-daemon --stdio over SSH
	SchemeFile   = "file"   // a binary cache in the directory Path
	SchemeHTTP   = "http"   // a binary cache
	SchemeHTTPS  = "https"
	SchemeS3     = "s3"    // a binary cache in the bucket Authority
	SchemeDummy  = "dummy" // an empty store
)

// A StoreURI says which store is meant (Nix manual, "Store Types", store URL
// format).
type StoreURI struct {
	Scheme string // one of the Scheme constants
	// Authority is "[user@]host[:port]" of an ssh, http or https store, with
	// brackets around an IPv6 address; the bucket of an s3 store.
	Authority string
	// Path is a path on this machine, absolute and clean, for local, unix and file;
	// the path of the URL as it was written, percent signs and all, for http and
	// https.
	Path string
	// Params are the parameters behind "?", each with one value. All are known for
	// the scheme, and well-formed.
	Params url.Values
}

// ParseStoreURI reads what stands behind --store, in NIX_REMOTE or in
// substituters: "auto" or nothing, "daemon", "local", "SCHEME://…", each with
// parameters, or a path with a slash in it, which is the root of a local store.
// A relative path starts at dir. A scheme or parameter that kiln doesn't know is
// an error; Nix only warns about the parameter and goes on without it.
func ParseStoreURI(text, dir string) (StoreURI, error) {
	u, err := parseStoreURI(text, dir)
	if err != nil {
		return StoreURI{}, fmt.Errorf("parse store '%s': %w", withoutPassword(text), err)
	}
	return u, nil
}

func parseStoreURI(text, dir string) (StoreURI, error) {
	if strings.ContainsRune(text, 0) {
		return StoreURI{}, errors.New("it contains a NUL")
	}
	base, query, _ := strings.Cut(text, "?")
	u := StoreURI{}
	scheme, rest, isURL := strings.Cut(base, "://")
	var err error
	switch {
	case isURL:
		u.Scheme = strings.ToLower(scheme)
		err = u.readRest(rest)
	case base == "" || base == "auto":
		u.Scheme = SchemeAuto
	case base == "daemon":
		u.Scheme = SchemeDaemon
	case base == "local":
		u.Scheme = SchemeLocal
	case !strings.Contains(base, "/"):
		err = errors.New("it is neither auto, daemon, local, a URL, nor a path with a '/' in it")
	case path.IsAbs(base):
		u.Scheme, u.Path = SchemeLocal, path.Clean(base)
	case path.IsAbs(dir):
		u.Scheme, u.Path = SchemeLocal, path.Join(dir, base)
	default:
		err = errors.New("not an absolute path")
	}
	if err != nil {
		return StoreURI{}, err
	}
	if u.Params, err = readParams(u.Scheme, query); err != nil {
		return StoreURI{}, err
	}
	if root := u.Params.Get("root"); u.Path != "" && root != "" && u.Scheme == SchemeLocal && path.Clean(root) != u.Path {
		return StoreURI{}, fmt.Errorf("the roots '%s' and '%s' contradict each other", u.Path, root)
	}
	return u, nil
}

// readRest reads what stands between "://" and "?".
func (u *StoreURI) readRest(rest string) (err error) {
	if strings.ContainsRune(rest, '#') {
		return errors.New("a store has no fragment ('#'); write %23 for the character")
	}
	switch u.Scheme {
	case SchemeLocal, SchemeDaemon, SchemeFile:
		if u.Path, err = url.PathUnescape(rest); err != nil {
			return err
		}
		switch {
		case u.Path == "" && u.Scheme == SchemeFile:
			u.Path = "/"
		case u.Path == "":
		case !path.IsAbs(u.Path) || strings.ContainsRune(u.Path, 0):
			return fmt.Errorf("'%s' is not an absolute path; write %s:///path", u.Path, u.Scheme)
		default:
			u.Path = path.Clean(u.Path)
		}
	case SchemeSSH, SchemeSSHNG:
		u.Authority, err = sshAuthority(strings.TrimSuffix(rest, "/"))
	case SchemeHTTP, SchemeHTTPS:
		parsed, perr := url.Parse(u.Scheme + "://" + rest)
		if perr != nil {
			return errors.New("not a valid URL")
		}
		if parsed.Hostname() == "" {
			return errors.New("the host is missing")
		}
		host, _, _ := strings.Cut(rest, "/")
		u.Authority, u.Path = host, rest[len(host):]
	case SchemeS3:
		u.Authority = strings.TrimSuffix(rest, "/")
		if u.Authority == "" || strings.ContainsAny(u.Authority, "/@: %") {
			return errors.New("want s3://BUCKET")
		}
	case SchemeDummy:
		if rest != "" {
			return errors.New("want dummy://")
		}
	case "local-overlay", "mounted-ssh-ng":
		return fmt.Errorf("kiln doesn't support stores of scheme '%s'", u.Scheme)
	default:
		return fmt.Errorf("don't know how to open Nix store with scheme '%s'; known are %s",
			u.Scheme, strings.Join(slices.Sorted(maps.Keys(schemeParams)), ", "))
	}
	return err
}

// sshAuthority reads "[user@]host[:port]". An IPv6 address may stand without
// brackets, as old versions of Nix had it; then there is no port. What would be
// an option on ssh's command line is refused.
func sshAuthority(text string) (string, error) {
	user, host := "", text
	if i := strings.LastIndexByte(text, '@'); i >= 0 {
		user, host = text[:i+1], text[i+1:]
	}
	bare := strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	bare = strings.Replace(bare, "%25", "%", 1)
	if addr, err := netip.ParseAddr(strings.TrimSuffix(bare, "%")); err == nil && addr.Is6() {
		bare = addr.WithZone("").String()
		if z := addr.Zone(); z != "" {
			bare += "%25" + z
		}
		host = "[" + bare + "]"
	}
	parsed, err := url.Parse("ssh://" + user + host)
	switch {
	case err != nil || parsed.Path != "" || strings.ContainsAny(text, " \t\r\n"):
		return "", errors.New("want ssh://[USER@]HOST[:PORT]")
	case parsed.Hostname() == "":
		return "", errors.New("the host is missing")
	case strings.HasPrefix(parsed.Hostname(), "-") || parsed.User != nil && strings.HasPrefix(parsed.User.Username(), "-"):
		return "", errors.New("user and host must not begin with '-'")
	}
	if p := parsed.Port(); p != "" {
		if n, err := strconv.ParseUint(p, 10, 16); err != nil || n == 0 {
			return "", fmt.Errorf("'%s' is not a port", p)
		}
	}
	return user + host, nil
}

// String gives the URI in its shortest usual form, which ParseStoreURI reads
// back as the same.
func (u StoreURI) String() string {
	s := u.Scheme + "://"
	switch {
	case u.Scheme == SchemeAuto:
		s = "auto"
	case u.Scheme == SchemeDaemon && u.Path == "" && len(u.Params) == 0:
		return "daemon"
	case u.Scheme == SchemeLocal && u.Path == "" && len(u.Params) == 0:
		return "local"
	case u.Scheme == SchemeHTTP || u.Scheme == SchemeHTTPS:
		s += u.Authority + u.Path
	default:
		s += u.Authority + (&url.URL{Path: u.Path}).EscapedPath()
	}
	if len(u.Params) == 0 {
		return s
	}
	return s + "?" + writeParams(u.Params)
}

// Redacted is String without a password, for messages.
func (u StoreURI) Redacted() string { return withoutPassword(u.String()) }

// withoutPassword blanks the password in the authority of anything like a URL.
func withoutPassword(text string) string {
	scheme, rest, ok := strings.Cut(text, "://")
	if !ok {
		return text
	}
	end := len(rest)
	if i := strings.IndexAny(rest, "/?#"); i >= 0 {
		end = i
	}
	at := strings.LastIndexByte(rest[:end], '@')
	if at < 0 {
		return text
	}
	user, _, hasPassword := strings.Cut(rest[:at], ":")
	if !hasPassword {
		return text
	}
	return scheme + "://" + user + ":xxxxx" + rest[at:]
}
