package binarycache

import (
	"cmp"
	"context"
	"encoding/hex"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/conf"
	"github.com/kilnbuild/kiln/store/sigv4"
)

// A bucket has the files of a cache behind the S3 protocol (Amazon S3 API Reference). It
// is HTTP with signed requests, and with uploads in parts of what is large.
type bucket struct {
	*web
	name         string
	storageClass string
	// parts says that what has at least threshold bytes is uploaded in parts of
	// partSize.
	parts               bool
	threshold, partSize int64
}

// What a bucket's own words are for things that mean something here.
const (
	noSuchBucket = "NoSuchBucket"
	accessDenied = "AccessDenied"
)

const (
	// defaultThreshold and defaultPartSize are Nix's.
	defaultThreshold = 100 << 20
	defaultPartSize  = 5 << 20
	// maxUpload is the most that S3 takes at once, maxParts how many parts it takes, and
	// minPartSize the least that all but the last must have.
	maxUpload   = 5 << 30
	maxParts    = 10000
	minPartSize = 5 << 20
)

// newBucket makes a bucket of a URI, with the credentials that env has.
func newBucket(u conf.StoreURI, opts HTTPOptions, env sigv4.Environment) (*bucket, error) {
	p := u.Params
	credentials, err := env.Credentials(p.Get("profile"))
	if err != nil {
		return nil, err
	}
	region := p.Get("region")
	if region == "" {
		if region, err = env.Region(p.Get("profile")); err != nil {
			return nil, err
		}
	}
	base, err := bucketURL(u.Authority, region, p.Get("endpoint"), cmp.Or(p.Get("scheme"), "https"), cmp.Or(p.Get("addressing-style"), "auto"))
	if err != nil {
		return nil, err
	}
	if err := opts.readParams(u); err != nil {
		return nil, err
	}
	w, err := newWeb(base, opts)
	if err != nil {
		return nil, err
	}
	b := &bucket{web: w, name: u.Authority, storageClass: p.Get("storage-class"), parts: u.Bool("multipart-upload", false)}
	b.threshold, b.partSize = u.Size("multipart-threshold", defaultThreshold), u.Size("multipart-chunk-size", defaultPartSize)
	if b.partSize < minPartSize {
		return nil, fmt.Errorf("multipart-chunk-size is %d bytes, and has to be %d at least", b.partSize, minPartSize)
	}
	b.explain = explainXML
	b.sign = func(req *http.Request) {
		if credentials.IsZero() {
			return
		}
		credentials.Sign(req, region, "s3", cmp.Or(req.Header.Get(payloadHeader), sigv4.EmptyPayload), time.Now())
	}
	return b, nil
}

// payloadHeader has the hash of what is sent.
const payloadHeader = "X-Amz-Content-Sha256"

// bucketURL is where a bucket is: a host of its own, or, at an endpoint that is not
// Amazon's or with dots in its name, a path.
func bucketURL(name, region, endpoint, scheme, style string) (string, error) {
	if scheme != "http" && scheme != "https" {
		return "", fmt.Errorf("'%s' is no scheme: use http or https", scheme)
	}
	host := "s3." + region + ".amazonaws.com"
	if endpoint != "" {
		if before, after, ok := strings.Cut(endpoint, "://"); ok {
			scheme, endpoint = before, after
		}
		host = strings.TrimSuffix(endpoint, "/")
	}
	if parsed, err := url.Parse(scheme + "://" + host); err != nil || parsed.Host != host || parsed.User != nil {
		return "", fmt.Errorf("'%s' is no endpoint: use HOST or HOST:PORT", host)
	}
	switch style {
	case "auto":
		style = "virtual"
		if endpoint != "" || strings.Contains(name, ".") {
			style = "path"
		}
	case "path", "virtual":
	default:
		return "", fmt.Errorf("'%s' is no addressing-style: use auto, path or virtual", style)
	}
	if style == "path" {
		return scheme + "://" + host + "/" + name, nil
	}
	return scheme + "://" + name + "." + host, nil
}

func (b *bucket) address() string { return "s3://" + b.name }

// maxAnswer is the longest answer that is read, in bytes.
const maxAnswer = 1 << 20

// explainXML reads why a request was refused.
func explainXML(resp *http.Response) (code, text string) {
	var e struct {
		XMLName xml.Name `xml:"Error"`
		Code    string
		Message string
	}
	if xml.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(&e) != nil {
		return "", ""
	}
	return e.Code, e.Message
}

func (b *bucket) put(ctx context.Context, name, kind string, spool *os.File, size int64) error {
	defer discard(spool)
	var err error
	if b.parts && size >= b.threshold || size > maxUpload {
		err = b.upload(ctx, name, kind, spool, size)
	} else {
		_, err = b.send(ctx, http.MethodPut, name, io.NewSectionReader(spool, 0, size), func(req *http.Request) { b.describe(req, kind) })
	}
	if err != nil {
		return fmt.Errorf("upload '%s': %w", name, err)
	}
	return nil
}

func (b *bucket) describe(req *http.Request, kind string) {
	req.Header.Set("Content-Type", kind)
	if b.storageClass != "" {
		req.Header.Set("X-Amz-Storage-Class", b.storageClass)
	}
}

// send makes a request that has a body, and gives the head of the answer.
func (b *bucket) send(ctx context.Context, method, name string, body *io.SectionReader, prepare func(*http.Request)) (http.Header, error) {
	resp, err := b.request(ctx, method, name, body, prepare)
	if err != nil {
		return nil, notMissing(err)
	}
	return resp.Header, resp.Body.Close()
}

func (b *bucket) request(ctx context.Context, method, name string, body *io.SectionReader, prepare func(*http.Request)) (*http.Response, error) {
	sum := nix.SHA256.New()
	if _, err := io.Copy(sum, io.NewSectionReader(body, 0, body.Size())); err != nil {
		return nil, err
	}
	hash := hex.EncodeToString(sum.Sum(nil))
	return b.do(ctx, method, name, func(req *http.Request) error {
		if prepare != nil {
			prepare(req)
		}
		req.Header.Set(payloadHeader, hash)
		if req.ContentLength = body.Size(); req.ContentLength > 0 {
			req.Body = io.NopCloser(io.NewSectionReader(body, 0, body.Size()))
		}
		return nil
	})
}

// notMissing is an error of a request that did not ask for anything: that it is forbidden
// does not mean that something is not there.
func notMissing(err error) error {
	var status *statusError
	if errors.As(err, &status) {
		return errors.New(status.Error())
	}
	return err
}

// partSizeOf is how large the parts of something have to be, so that there are not too
// many.
func (b *bucket) partSizeOf(size int64) int64 { return max(b.partSize, (size+maxParts-1)/maxParts) }

// farewell is how long S3 may take to hear that an upload is not wanted any more.
const farewell = 10 * time.Second

// upload uploads in parts. Nothing is left of an upload that fails, unless S3 does not
// hear of it.
func (b *bucket) upload(ctx context.Context, name, kind string, spool io.ReaderAt, size int64) (err error) {
	nothing := io.NewSectionReader(spool, 0, 0)
	var begun struct {
		XMLName  xml.Name `xml:"InitiateMultipartUploadResult"`
		UploadId string
	}
	if err := b.converse(ctx, name+"?uploads", nothing, &begun, func(req *http.Request) { b.describe(req, kind) }); err != nil {
		return err
	}
	query := "uploadId=" + url.QueryEscape(begun.UploadId)
	defer func() {
		if err == nil {
			return
		}
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), farewell)
		defer cancel()
		if resp, err := b.once(ctx, http.MethodDelete, name+"?"+query, nil); err == nil {
			resp.Body.Close()
		}
	}()
	var list strings.Builder
	list.WriteString(`<CompleteMultipartUpload xmlns="http://s3.amazonaws.com/doc/2006-03-01/">`)
	partSize := b.partSizeOf(size)
	for number, at := 1, int64(0); at < size; number, at = number+1, at+partSize {
		part := io.NewSectionReader(spool, at, min(partSize, size-at))
		head, err := b.send(ctx, http.MethodPut, fmt.Sprintf("%s?partNumber=%d&%s", name, number, query), part, nil)
		if err != nil {
			return fmt.Errorf("part %d: %w", number, err)
		}
		fmt.Fprintf(&list, "<Part><PartNumber>%d</PartNumber><ETag>", number)
		if err := xml.EscapeText(&list, []byte(head.Get("ETag"))); err != nil {
			return err
		}
		list.WriteString("</ETag></Part>")
	}
	list.WriteString("</CompleteMultipartUpload>")
	// That it did not work may be said with a status of success: S3 answers before it
	// knows.
	var done struct {
		XMLName xml.Name `xml:"CompleteMultipartUploadResult"`
	}
	text := strings.NewReader(list.String())
	return b.converse(ctx, name+"?"+query, io.NewSectionReader(text, 0, text.Size()), &done, nil)
}

// converse posts something and reads the answer.
func (b *bucket) converse(ctx context.Context, name string, body *io.SectionReader, answer any, prepare func(*http.Request)) error {
	resp, err := b.request(ctx, http.MethodPost, name, body, prepare)
	if err != nil {
		return notMissing(err)
	}
	defer resp.Body.Close()
	if err := xml.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(answer); err != nil {
		return fmt.Errorf("the answer to %s is not what it should be: %w", resp.Request.URL.Redacted(), err)
	}
	return nil
}

var _ distant = (*bucket)(nil)
