package conf

import (
	"fmt"
	"maps"
	"math"
	"net/url"
	"path"
	"slices"
	"strings"
)

// params maps the names of parameters to their types.
type params map[string]Type

// What each sort of store takes (Nix manual, "Store Types"; the union of Nix 2.8
// and 2.36).
var (
	anyStore = params{
		"path-info-cache-size": TypeInt,
		"priority":             TypeString, // may be negative
		"store":                TypePath,
		"system-features":      TypeSet,
		"trusted":              TypeBool,
		"want-mass-query":      TypeBool,
	}
	fileSystemStore = params{
		"log":   TypePath,
		"real":  TypePath,
		"root":  TypeOptionalPath,
		"state": TypePath,
	}
	localStore = params{
		"build-dir":                TypeOptionalPath,
		"ignore-gc-delete-failure": TypeBool,
		"read-only":                TypeBool,
		"require-sigs":             TypeBool,
		"use-roots-daemon":         TypeBool,
	}
	remoteStore = params{
		"max-connection-age": TypeInt,
		"max-connections":    TypeInt,
	}
	sshStore = params{
		"base64-ssh-public-host-key": TypeString,
		"compress":                   TypeBool,
		"remote-program":             TypeList,
		"remote-store":               TypeString,
		"ssh-key":                    TypeOptionalPath,
	}
	binaryCache = params{
		"compression":          TypeString,
		"compression-level":    TypeString, // may be negative
		"index-debug-info":     TypeBool,
		"local-nar-cache":      TypeOptionalPath,
		"parallel-compression": TypeBool,
		"secret-key":           TypeOptionalPath,
		"secret-keys":          TypeString,
		"write-nar-listing":    TypeBool,
	}
	httpCache = params{
		"log-compression":          TypeString,
		"ls-compression":           TypeString,
		"narinfo-compression":      TypeString,
		"retry-attempts":           TypeInt,
		"retry-delay":              TypeInt,
		"retry-delay-rate-limited": TypeInt,
		"retry-max-delay":          TypeInt,
		"tls-certificate":          TypeOptionalPath,
		"tls-private-key":          TypeOptionalPath,
	}
	s3Cache = params{
		"addressing-style":     TypeString,
		"buffer-size":          TypeSize,
		"endpoint":             TypeString,
		"multipart-chunk-size": TypeSize,
		"multipart-threshold":  TypeSize,
		"multipart-upload":     TypeBool,
		"profile":              TypeString,
		"region":               TypeString,
		"scheme":               TypeString,
		"storage-class":        TypeString,
	}
	dummyStore = params{"read-only": TypeBool}
)

var schemeParams = map[string]params{
	SchemeAuto:   union(anyStore, fileSystemStore, localStore, remoteStore),
	SchemeLocal:  union(anyStore, fileSystemStore, localStore),
	SchemeDaemon: union(anyStore, fileSystemStore, remoteStore),
	SchemeSSH:    union(anyStore, sshStore, params{"max-connections": TypeInt}),
	SchemeSSHNG:  union(anyStore, sshStore, remoteStore),
	SchemeFile:   union(anyStore, binaryCache),
	SchemeHTTP:   union(anyStore, binaryCache, httpCache),
	SchemeHTTPS:  union(anyStore, binaryCache, httpCache),
	SchemeS3:     union(anyStore, binaryCache, httpCache, s3Cache),
	SchemeDummy:  union(anyStore, dummyStore),
}

func union(all ...params) params {
	u := params{}
	for _, p := range all {
		maps.Copy(u, p)
	}
	return u
}

// readParams reads "name=value&name=value". A plus sign stands for itself, as in
// the base64 of a host key; other characters may be percent-encoded.
func readParams(scheme, query string) (url.Values, error) {
	known := schemeParams[scheme]
	out := url.Values{}
	for pair := range strings.SplitSeq(query, "&") {
		if pair == "" {
			continue
		}
		rawName, rawValue, ok := strings.Cut(pair, "=")
		name, err := url.PathUnescape(rawName)
		if err != nil {
			return nil, err
		}
		value, err := url.PathUnescape(rawValue)
		if err != nil {
			return nil, err
		}
		t, there := known[name]
		switch {
		case !there:
			return nil, fmt.Errorf("unknown parameter '%s'; a store of scheme '%s' takes %s",
				name, scheme, strings.Join(slices.Sorted(maps.Keys(known)), ", "))
		case !ok:
			return nil, fmt.Errorf("parameter '%s' has no value", name)
		case out.Has(name):
			return nil, fmt.Errorf("parameter '%s' is given twice", name)
		case strings.ContainsRune(value, 0):
			return nil, fmt.Errorf("parameter '%s' contains a NUL", name)
		}
		if err := newValue(t).set(&Definition{Name: name, Type: t}, value, false); err != nil {
			return nil, err
		}
		if (t == TypePath || t == TypeOptionalPath) && value != "" {
			value = path.Clean(value)
		}
		out.Set(name, value)
	}
	return out, nil
}

// writeParams is the inverse, with the names sorted.
func writeParams(p url.Values) string {
	var pairs []string
	for _, name := range slices.Sorted(maps.Keys(p)) {
		// QueryEscape would be right but for the space, which it makes a plus sign.
		pairs = append(pairs, url.PathEscape(name)+"="+strings.ReplaceAll(url.QueryEscape(p.Get(name)), "+", "%20"))
	}
	return strings.Join(pairs, "&")
}

// Bool gives a boolean parameter; without it, or for a parameter that is no
// boolean, otherwise.
func (u StoreURI) Bool(name string, otherwise bool) bool {
	b := boolean{&otherwise}
	_ = b.set(&Definition{Name: name}, u.Params.Get(name), false)
	return otherwise
}

// Size gives a parameter that is a number of bytes; without it, or for one that is no
// number, otherwise. What is more than an int64 has is that much.
func (u StoreURI) Size(name string, otherwise int64) int64 {
	n, err := parseNumber(u.Params.Get(name))
	if err != nil {
		return otherwise
	}
	return int64(min(n, math.MaxInt64))
}
