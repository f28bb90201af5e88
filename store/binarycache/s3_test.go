package binarycache

import (
	"bytes"
	"cmp"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/conf"
	"github.com/kilnbuild/kiln/store"
	"github.com/kilnbuild/kiln/store/sigv4"
	"github.com/kilnbuild/kiln/store/storetest"
)

// buckets are an S3 server with one bucket, called cache. What is not signed, and signed
// rightly, it refuses.
type buckets struct {
	mu      sync.Mutex
	objects map[string][]byte
	uploads map[string]map[int][]byte
	begun   int
	address string // where it is served
	// before, if set, may answer a request itself.
	before func(w http.ResponseWriter, r *http.Request) bool
}

var s3Keys = sigv4.Credentials{AccessKey: "AKIDEXAMPLE", SecretKey: "secret/of+the=test"}

func refuse(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("Content-Type", "application/xml")
	w.WriteHeader(status)
	fmt.Fprintf(w, "<?xml version=\"1.0\"?>\n<Error><Code>%s</Code><Message>%s</Message></Error>", code, message)
}

// signed tells whether a request has the signature that it should have.
func signed(r *http.Request, body []byte) bool {
	again, err := http.NewRequest(r.Method, "http://"+r.Host+r.URL.String(), nil)
	if err != nil {
		return false
	}
	for _, name := range []string{"Range", "Content-Type", "X-Amz-Storage-Class"} {
		if v := r.Header.Get(name); v != "" {
			again.Header.Set(name, v)
		}
	}
	at, err := time.Parse("20060102T150405Z", r.Header.Get("X-Amz-Date"))
	if err != nil || time.Since(at).Abs() > time.Minute {
		return false
	}
	s3Keys.Sign(again, "eu-central-1", "s3", nix.HashBytes(nix.SHA256, body).Base16(), at)
	return again.Header.Get("Authorization") == r.Header.Get("Authorization")
}

func (s *buckets) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if s.before != nil && s.before(w, r) {
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		panic(http.ErrAbortHandler) // to return would say that it is done
	}
	if !signed(r, body) {
		refuse(w, http.StatusForbidden, "SignatureDoesNotMatch", "The request signature we calculated does not match the signature you provided.")
		return
	}
	name, ok := strings.CutPrefix(r.URL.Path, "/cache/")
	if !ok {
		refuse(w, http.StatusNotFound, "NoSuchBucket", "The specified bucket does not exist")
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	q := r.URL.Query()
	parts := s.uploads[q.Get("uploadId")]
	if q.Has("uploadId") && parts == nil {
		refuse(w, http.StatusNotFound, "NoSuchUpload", "The specified upload does not exist.")
		return
	}
	switch {
	case r.Method == http.MethodPost && q.Has("uploads"):
		s.begun++
		id := fmt.Sprintf("upload/%d+=", s.begun)
		s.uploads[id] = make(map[int][]byte)
		fmt.Fprintf(w, "<InitiateMultipartUploadResult><UploadId>%s</UploadId></InitiateMultipartUploadResult>", id)
	case r.Method == http.MethodPost && parts != nil:
		s.complete(w, name, q.Get("uploadId"), body)
	case r.Method == http.MethodPut && parts != nil:
		n, err := strconv.Atoi(q.Get("partNumber"))
		if err != nil || n < 1 {
			refuse(w, http.StatusBadRequest, "InvalidArgument", "Part number must be an integer")
			return
		}
		parts[n] = body
		w.Header().Set("ETag", fmt.Sprintf("\"part-%d\"", n))
	case r.Method == http.MethodDelete && parts != nil:
		delete(s.uploads, q.Get("uploadId"))
		w.WriteHeader(http.StatusNoContent)
	case r.Method == http.MethodPut:
		s.objects[name] = body
	case r.Method == http.MethodGet || r.Method == http.MethodHead:
		content, ok := s.objects[name]
		if !ok {
			refuse(w, http.StatusNotFound, "NoSuchKey", "The specified key does not exist.")
			return
		}
		w.Header().Set("ETag", fmt.Sprintf(`"%d"`, len(content)))
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(content))
	default:
		refuse(w, http.StatusMethodNotAllowed, "MethodNotAllowed", "")
	}
}

// complete makes an object of parts. All but the last have to be large.
func (s *buckets) complete(w http.ResponseWriter, name, id string, body []byte) {
	var list struct {
		XMLName xml.Name `xml:"CompleteMultipartUpload"`
		Part    []struct {
			PartNumber int
			ETag       string
		}
	}
	if err := xml.Unmarshal(body, &list); err != nil || len(list.Part) != len(s.uploads[id]) {
		refuse(w, http.StatusBadRequest, "MalformedXML", "")
		return
	}
	var object []byte
	for i, p := range list.Part {
		part := s.uploads[id][p.PartNumber]
		if p.ETag != fmt.Sprintf("\"part-%d\"", p.PartNumber) || i < len(list.Part)-1 && len(part) < minPartSize {
			// As S3 does: the status was sent before it is known.
			fmt.Fprint(w, "<Error><Code>EntityTooSmall</Code><Message>Your proposed upload is smaller than the minimum allowed size</Message></Error>")
			return
		}
		object = append(object, part...)
	}
	s.objects[name] = object
	delete(s.uploads, id)
	fmt.Fprint(w, "<CompleteMultipartUploadResult><Key>k</Key></CompleteMultipartUploadResult>")
}

// serveS3 starts a server, and gives a function that opens its cache, at another address
// if that is not "".
func serveS3(t *testing.T, s *buckets) func(address, params string) (*Cache, error) {
	t.Helper()
	s.objects, s.uploads = make(map[string][]byte), make(map[string]map[int][]byte)
	hs := httptest.NewServer(s)
	t.Cleanup(hs.Close)
	s.address = hs.Listener.Addr().String()
	t.Setenv("AWS_ACCESS_KEY_ID", s3Keys.AccessKey)
	t.Setenv("AWS_SECRET_ACCESS_KEY", s3Keys.SecretKey)
	t.Setenv("AWS_SESSION_TOKEN", "")
	t.Setenv("AWS_CONFIG_FILE", "/dev/null")
	t.Cleanup(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if len(s.uploads) > 0 {
			t.Errorf("%d uploads were neither completed nor given up", len(s.uploads))
		}
	})
	return func(address, params string) (*Cache, error) {
		u, err := conf.ParseStoreURI("s3://cache?region=eu-central-1&scheme=http&endpoint="+cmp.Or(address, s.address)+params, "/")
		if err != nil {
			t.Fatal(err)
		}
		c, err := OpenURI(t.Context(), u, Options{Create: true}, HTTPOptions{Delay: time.Millisecond, Stalled: time.Second})
		if err == nil {
			t.Cleanup(func() { c.Close() })
		}
		return c, err
	}
}

func TestS3(t *testing.T) {
	storetest.Run(t, func(t *testing.T) store.Store {
		c, err := serveS3(t, &buckets{})("", "&compression=zstd")
		if err != nil {
			t.Fatal(err)
		}
		return c
	})
}

// TestS3Parts has something uploaded in parts, one of which comes late, and one never.
func TestS3Parts(t *testing.T) {
	s := &buckets{}
	open := serveS3(t, s)
	c, err := open("", "&compression=none&multipart-upload=true&multipart-threshold=5m")
	if err != nil {
		t.Fatal(err)
	}
	tries := 0 // of second parts
	failing := false
	s.before = func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Query().Get("partNumber") != "2" {
			return false
		}
		tries++
		switch {
		case failing:
			refuse(w, http.StatusForbidden, "AccessDenied", "Access Denied")
		case tries == 1:
			refuse(w, http.StatusServiceUnavailable, "SlowDown", "Please reduce your request rate.")
		default:
			return false
		}
		return true
	}
	large := storetest.Text(t, dir, "large", strings.Repeat("large ", 1<<20))
	storetest.Add(t, c, large)
	clear(c.known)
	storetest.Check(t, c, large)
	if tries != 2 {
		t.Errorf("the second part was sent %d times, not twice", tries)
	}
	failing = true
	other := storetest.Text(t, dir, "other", strings.Repeat("other ", 1<<20))
	err = c.Add(t.Context(), &other.Info, bytes.NewReader(other.NAR), store.AddOptions{})
	if err == nil || !strings.Contains(err.Error(), "part 2: ") || !strings.Contains(err.Error(), "AccessDenied: Access Denied") {
		t.Errorf("error %v", err)
	}
	if _, err := c.PathInfo(t.Context(), other.Info.Path); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("error %v, want that it is not there", err)
	}
}

// TestS3Refusals has buckets that do not want us: that nothing is there would be wrong.
func TestS3Refusals(t *testing.T) {
	open := serveS3(t, &buckets{})
	for _, c := range []struct {
		name, key, params, want string
	}{
		{"a wrong secret", "wrong", "", "SignatureDoesNotMatch"},
		{"not signed at all", "", "", "SignatureDoesNotMatch"},
		{"an unknown profile", "wrong", "&profile=nobody", "the profile 'nobody' has no aws_access_key_id"},
		{"parts that are too small", "wrong", "&multipart-chunk-size=1k", "multipart-chunk-size is 1024 bytes"},
		{"a wrong style", "wrong", "&addressing-style=both", "use auto, path or virtual"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Setenv("AWS_SECRET_ACCESS_KEY", c.key)
			if c.key == "" {
				t.Setenv("AWS_ACCESS_KEY_ID", "")
				t.Setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
			}
			if _, err := open("", c.params); err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "s3://cache") {
				t.Errorf("error %v, want %q", err, c.want)
			}
		})
	}
}

func TestBucketURL(t *testing.T) {
	for _, c := range []struct{ name, endpoint, scheme, style, want string }{
		{"b", "", "https", "auto", "https://b.s3.eu-west-1.amazonaws.com"},
		{"a.b", "", "https", "auto", "https://s3.eu-west-1.amazonaws.com/a.b"},
		{"b", "minio:9000", "http", "auto", "http://minio:9000/b"},
		{"b", "http://minio:9000/", "https", "auto", "http://minio:9000/b"},
		{"b", "minio", "https", "virtual", "https://b.minio"},
		{"b", "", "https", "path", "https://s3.eu-west-1.amazonaws.com/b"},
		{"b", "min/io", "https", "auto", ""},
		{"b", "user@minio", "https", "auto", ""},
		{"b", "", "ftp", "auto", ""},
	} {
		got, err := bucketURL(c.name, "eu-west-1", c.endpoint, c.scheme, c.style)
		if got != c.want || (err != nil) != (c.want == "") {
			t.Errorf("%+v: %q, error %v", c, got, err)
		}
	}
}

// TestPartSize holds the number of parts to what S3 takes.
func TestPartSize(t *testing.T) {
	b := &bucket{partSize: defaultPartSize}
	for _, size := range []int64{1, 100 << 20, 1 << 40, 5 << 40} {
		part := b.partSizeOf(size)
		if n := (size + part - 1) / part; n > maxParts || part < defaultPartSize {
			t.Errorf("%d bytes: %d parts of %d bytes", size, n, part)
		}
	}
}
