package sigv4

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Credentials are a name and a secret to sign with.
type Credentials struct {
	AccessKey, SecretKey string
	// Token goes with credentials that hold for some time only; "" for others.
	Token string
}

// IsZero tells whether there are none: requests are not signed then, as public buckets
// have it.
func (c Credentials) IsZero() bool { return c.AccessKey == "" && c.SecretKey == "" }

// EmptyPayload is the payload hash of a request without a body.
const EmptyPayload = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

const (
	algorithm   = "AWS4-HMAC-SHA256"
	timeFormat  = "20060102T150405Z"
	dayFormat   = "20060102"
	hashHeader  = "X-Amz-Content-Sha256"
	dateHeader  = "X-Amz-Date"
	tokenHeader = "X-Amz-Security-Token"
)

// Sign signs a request, which must not be changed afterwards. payload is the SHA-256 of its
// body in hexadecimal. The host, the range, the kind of content, and all headers that begin
// with X-Amz- are signed. The path and the query are written as they are signed, which is not how net/url
// does.
func (c Credentials) Sign(req *http.Request, region, service, payload string, now time.Time) {
	now = now.UTC()
	req.Header.Set(dateHeader, now.Format(timeFormat))
	req.Header.Set(hashHeader, payload)
	if c.Token != "" {
		req.Header.Set(tokenHeader, c.Token)
	}
	req.URL.RawPath = escapePath(req.URL.Path)
	req.URL.RawQuery = canonicalQuery(req.URL.Query())
	names, headers := canonicalHeaders(req)
	canonical := strings.Join([]string{req.Method, escapePath(req.URL.Path), req.URL.RawQuery, headers, names, payload}, "\n")

	scope := strings.Join([]string{now.Format(dayFormat), region, service, "aws4_request"}, "/")
	sum := sha256.Sum256([]byte(canonical))
	text := strings.Join([]string{algorithm, now.Format(timeFormat), scope, hex.EncodeToString(sum[:])}, "\n")
	key := []byte("AWS4" + c.SecretKey)
	for part := range strings.SplitSeq(scope, "/") {
		key = mac(key, part)
	}
	req.Header.Set("Authorization", fmt.Sprintf("%s Credential=%s/%s,SignedHeaders=%s,Signature=%s",
		algorithm, c.AccessKey, scope, names, hex.EncodeToString(mac(key, text))))
}

func mac(key []byte, text string) []byte {
	h := hmac.New(sha256.New, key)
	h.Write([]byte(text))
	return h.Sum(nil)
}

// canonicalHeaders gives the names of the headers that are signed, and the headers.
func canonicalHeaders(req *http.Request) (names, lines string) {
	host := req.Host
	if host == "" {
		host = req.URL.Host
	}
	values := map[string]string{"host": host}
	for name := range req.Header {
		name := strings.ToLower(name)
		if name == "range" || name == "content-type" || strings.HasPrefix(name, "x-amz-") {
			values[name] = strings.Join(strings.Fields(req.Header.Get(name)), " ")
		}
	}
	list := make([]string, 0, len(values))
	for name := range values {
		list = append(list, name)
	}
	slices.Sort(list)
	var b strings.Builder
	for _, name := range list {
		b.WriteString(name + ":" + values[name] + "\n")
	}
	return strings.Join(list, ";"), b.String()
}

// canonicalQuery writes a query with its names in order.
func canonicalQuery(query url.Values) string {
	var parts []string
	for name, values := range query {
		for _, v := range values {
			parts = append(parts, escape(name)+"="+escape(v))
		}
	}
	slices.Sort(parts)
	return strings.Join(parts, "&")
}

// escapePath writes a path with everything escaped that is neither a letter, a digit, a
// slash nor one of "-_.~".
func escapePath(path string) string {
	segments := strings.Split(path, "/")
	for i, s := range segments {
		segments[i] = escape(s)
	}
	if path == "" {
		return "/"
	}
	return strings.Join(segments, "/")
}

func escape(s string) string {
	var b strings.Builder
	for i := range len(s) {
		c := s[i]
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("-_.~", c) >= 0 {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}
