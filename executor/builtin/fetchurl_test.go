package builtin

import (
	"bytes"
	"context"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/kilnbuild/kiln/nix/nar"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fetching is a request for builtin:fetchurl with a server that it may reach.
func fetching(t *testing.T, url string) *Request {
	return &Request{
		Builder: "builtin:fetchurl", Env: map[string]string{"url": url}, Outputs: map[string]string{"out": filepath.Join(t.TempDir(), "out")},
		Fixed: &FixedHash{Flat: true, Algorithm: "sha256", Base16: strings.Repeat("a", 64)},
		Fetch: FetchSettings{AllowLoopback: true, Attempts: 3, Retry: RetrySettings{Delay: time.Millisecond}},
	}
}

// built runs a builder through its encoded form, and gives what it printed and
// whether it succeeded.
func built(t *testing.T, r *Request) (log string, ok bool) {
	t.Helper()
	var request, printed bytes.Buffer
	if err := r.Encode(&request); err != nil {
		t.Fatal(err)
	}
	code := Main(t.Context(), io.NopCloser(&request), &printed)
	return printed.String(), code == 0
}

func mustBuild(t *testing.T, r *Request) (content string) {
	t.Helper()
	log, ok := built(t, r)
	if !ok {
		t.Fatalf("it failed: %s", log)
	}
	text, err := os.ReadFile(r.Outputs["out"])
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func mustFail(t *testing.T, r *Request, words ...string) (log string) {
	t.Helper()
	log, ok := built(t, r)
	if ok {
		t.Fatalf("it succeeded, want %q", words)
	}
	for _, w := range words {
		if !strings.Contains(log, w) {
			t.Errorf("the log is %q, want %q in it", log, w)
		}
	}
	return log
}

// server answers with what handle writes, and keeps what it was asked.
type server struct {
	*httptest.Server
	mu       sync.Mutex
	requests []*http.Request
}

func serve(t *testing.T, handle http.HandlerFunc, start func(http.Handler) *httptest.Server) *server {
	s := &server{}
	s.Server = start(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.requests = append(s.requests, r.Clone(context.Background()))
		s.mu.Unlock()
		handle(w, r)
	}))
	s.Config.ErrorLog = nil
	t.Cleanup(s.Close)
	return s
}

func says(text string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, text) }
}

func (s *server) certificate() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
}

func (s *server) authorizations() (list []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.requests {
		list = append(list, r.Header.Get("Authorization"))
	}
	return list
}

func TestFetchurl(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if got := r.Header.Get("Accept-Encoding"); got != "" && got != "identity" {
			t.Errorf("it asks for the encoding %q", got)
		}
		w.Header().Set("Content-Encoding", "gzip") // says nothing about the file
		fmt.Fprint(w, "content")
	}, httptest.NewServer)
	if got := mustBuild(t, fetching(t, s.URL+"/x")); got != "content" {
		t.Errorf("got %q", got)
	}

	t.Run("executable", func(t *testing.T) {
		r := fetching(t, s.URL)
		r.Env["executable"] = "1"
		mustBuild(t, r)
		if info, err := os.Stat(r.Outputs["out"]); err != nil || info.Mode().Perm() != 0o755 {
			t.Errorf("the output is %v, %v", info.Mode(), err)
		}
	})
	t.Run("file", func(t *testing.T) {
		name := filepath.Join(t.TempDir(), "with space")
		if err := os.WriteFile(name, []byte("local"), 0o600); err != nil {
			t.Fatal(err)
		}
		if got := mustBuild(t, fetching(t, "file://"+strings.ReplaceAll(name, " ", "%20"))); got != "local" {
			t.Errorf("got %q", got)
		}
	})
	t.Run("unpack", func(t *testing.T) {
		var archive bytes.Buffer
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, "a"), []byte("in the archive"), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, err := nar.Dump(&archive, dir, nar.DumpOptions{}); err != nil {
			t.Fatal(err)
		}
		s := serve(t, says(archive.String()), httptest.NewServer)
		r := fetching(t, s.URL+"/x.nar")
		r.Env["unpack"] = "1"
		if log, ok := built(t, r); !ok {
			t.Fatal(log)
		}
		out := r.Outputs["out"]
		t.Cleanup(func() { os.Chmod(out, 0o755) }) // or it could not be removed
		if text, err := os.ReadFile(filepath.Join(r.Outputs["out"], "a")); err != nil || string(text) != "in the archive" {
			t.Errorf("got %q, %v", text, err)
		}
		r.Env["url"] += ".xz"
		r.Outputs["out"] += "2"
		mustFail(t, r, "no xz file")
	})
}

func TestFetchurlRefuses(t *testing.T) {
	for _, test := range []struct {
		name  string
		edit  func(*Request)
		words string
	}{
		{"no out", func(r *Request) { r.Outputs = map[string]string{"doc": "/x"} }, "'builtin:fetchurl' requires an 'out' output"},
		{"not fixed", func(r *Request) { r.Fixed = nil }, "'builtin:fetchurl' must be a fixed-output or impure derivation"},
		{"no url", func(r *Request) { delete(r.Env, "url") }, "attribute 'url' missing"},
		{"other scheme", func(r *Request) { r.Env["url"] = "gopher://u:secret@x/" }, "no way to fetch 'gopher:'"},
		{"bad url", func(r *Request) { r.Env["url"] = "http://u:secret@[::1/" }, "unable to download"},
		{"bad certificates", func(r *Request) { r.Fetch.CACertificates = []byte("none") }, "ssl-cert-file has no certificate in it"},
		{"unknown builder", func(r *Request) { r.Builder = "builtin:brew" }, "unsupported builtin builder 'brew'"},
	} {
		t.Run(test.name, func(t *testing.T) {
			r := fetching(t, "file:///nowhere")
			test.edit(r)
			if log := mustFail(t, r, test.words); strings.Contains(log, "secret") {
				t.Errorf("a password is in the log: %s", log)
			}
		})
	}
}

// TestFetchurlGoesOn breaks the connection within the file, again and again.
func TestFetchurlGoesOn(t *testing.T) {
	const content = "0123456789abcdefghij"
	for _, test := range []struct {
		name   string
		ranges bool
		etag   string
	}{{"with ranges", true, `"1"`}, {"from the start", false, ""}} {
		t.Run(test.name, func(t *testing.T) {
			var asked []string
			s := serve(t, func(w http.ResponseWriter, r *http.Request) {
				asked = append(asked, r.Header.Get("Range"))
				from := 0
				if test.ranges {
					fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &from)
				}
				w.Header().Set("ETag", test.etag)
				w.Header().Set("Content-Length", fmt.Sprint(len(content)-from))
				if from > 0 {
					w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(content)-1, len(content)))
					w.WriteHeader(http.StatusPartialContent)
				}
				end := len(content)
				if len(asked) < 3 {
					end = 5 * len(asked)
				}
				fmt.Fprint(w, content[from:end])
			}, httptest.NewServer)
			if got := mustBuild(t, fetching(t, s.URL)); got != content {
				t.Errorf("got %q", got)
			}
			if want := []string{"", "bytes=5-", "bytes=10-"}; fmt.Sprint(asked) != fmt.Sprint(want) {
				t.Errorf("the server was asked for %q, want %q", asked, want)
			}
		})
	}

	t.Run("another file", func(t *testing.T) {
		n := 0
		s := serve(t, func(w http.ResponseWriter, _ *http.Request) {
			n++
			w.Header().Set("ETag", fmt.Sprintf(`"%d"`, n))
			w.Header().Set("Content-Length", "10")
			fmt.Fprint(w, "short")
		}, httptest.NewServer)
		mustFail(t, fetching(t, s.URL), "the server has another file now")
	})
}

func TestFetchurlRetries(t *testing.T) {
	for _, test := range []struct {
		code, asked int
	}{{404, 1}, {403, 1}, {401, 1}, {501, 1}, {408, 3}, {429, 3}, {500, 3}, {503, 3}} {
		t.Run(fmt.Sprint(test.code), func(t *testing.T) {
			s := serve(t, func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(test.code)
				fmt.Fprint(w, "\x1b[2Jsorry\x00")
			}, httptest.NewServer)
			url := strings.Replace(s.URL, "http://", "http://u:secret@", 1)
			log := mustFail(t, fetching(t, url), fmt.Sprintf("unable to download 'http://u:xxxxx@%s': HTTP error %d", s.Listener.Addr(), test.code), "\n\n[2Jsorry\n")
			if strings.Contains(log, "secret") || strings.ContainsAny(log, "\x1b\x00") {
				t.Errorf("the log is %q", log)
			}
			if len(s.requests) != test.asked {
				t.Errorf("it asked %d times, want %d", len(s.requests), test.asked)
			}
		})
	}

	t.Run("stalled", func(t *testing.T) {
		s := serve(t, func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprint(w, "a bit")
			w.(http.Flusher).Flush()
			<-r.Context().Done()
		}, httptest.NewServer)
		r := fetching(t, s.URL)
		r.Fetch.StalledTimeout, r.Fetch.Attempts = 20*time.Millisecond, 2
		mustFail(t, r, "stalled-download-timeout")
	})
	t.Run("redirects", func(t *testing.T) {
		s := serve(t, func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, r.URL.Path, http.StatusFound) }, httptest.NewServer)
		mustFail(t, fetching(t, s.URL), "too many redirects")
	})
}

func TestFetchurlMirrors(t *testing.T) {
	mirror := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/m/sha256/"+strings.Repeat("a", 64) {
			http.NotFound(w, r)
			return
		}
		fmt.Fprint(w, "from the mirror")
	}, httptest.NewServer)
	origin := serve(t, says("from the origin"), httptest.NewServer)

	r := fetching(t, origin.URL)
	r.Fetch.AllowLoopback = false // which is not asked of the operator's own mirrors
	r.Fetch.HashedMirrors = []string{mirror.URL + "/not-here", mirror.URL + "/m/"}
	if got := mustBuild(t, r); got != "from the mirror" {
		t.Errorf("got %q", got)
	}
	r = fetching(t, origin.URL)
	r.Fetch.HashedMirrors = []string{mirror.URL + "/m"}
	r.Fixed.Flat = false
	if got := mustBuild(t, r); got != "from the origin" {
		t.Errorf("got %q", got)
	}
}

// TestT06Credentials looks at what servers get that must not have credentials.
func TestT06Credentials(t *testing.T) {
	const netrc = "machine 127.0.0.1 login me password secret"
	elsewhere := serve(t, says("x"), httptest.NewServer)
	secure := serve(t, says("x"), httptest.NewTLSServer)

	t.Run("unknown certificate", func(t *testing.T) {
		r := fetching(t, secure.URL)
		r.Fetch.Netrc = netrc
		log := mustFail(t, r, "certificate signed by unknown authority")
		if strings.Contains(log, "retrying") {
			t.Errorf("it tried again: %s", log)
		}
		if got := secure.authorizations(); got != nil {
			t.Errorf("the server was asked: %q", got)
		}
	})
	t.Run("known certificate", func(t *testing.T) {
		r := fetching(t, secure.URL)
		r.Fetch.Netrc, r.Fetch.CACertificates = netrc, secure.certificate()
		mustBuild(t, r)
		if got := secure.authorizations(); len(got) != 1 || got[0] != "Basic bWU6c2VjcmV0" {
			t.Errorf("it sent %q", got)
		}
	})
	for name, to := range map[string]string{
		"another port": elsewhere.URL, "another host": strings.Replace(elsewhere.URL, "127.0.0.1", "localhost", 1),
	} {
		t.Run("redirect to "+name, func(t *testing.T) {
			first := serve(t, func(w http.ResponseWriter, r *http.Request) { http.Redirect(w, r, to, http.StatusFound) }, httptest.NewTLSServer)
			elsewhere.requests = nil
			for _, url := range []string{first.URL, strings.Replace(first.URL, "https://", "https://in:url@", 1)} {
				r := fetching(t, url)
				r.Fetch.Netrc, r.Fetch.CACertificates = netrc, first.certificate()
				mustBuild(t, r)
			}
			if got := first.authorizations(); len(got) != 2 || got[0] == "" || got[1] == "" {
				t.Errorf("the first server got %q", got)
			}
			if got := elsewhere.authorizations(); len(got) != 2 || got[0] != "" || got[1] != "" {
				t.Errorf("the second server got %q", got)
			}
			if referer := elsewhere.requests[1].Referer(); referer != "" {
				t.Errorf("the second server learned of %q", referer)
			}
		})
	}
}

// TestT14bAddresses asks for what only this machine, or its provider, answers.
func TestT14bAddresses(t *testing.T) {
	s := serve(t, says("internal"), httptest.NewServer)
	port := s.URL[strings.LastIndex(s.URL, ":"):]
	for _, url := range []string{
		s.URL, "http://localhost" + port, "http://0.0.0.0" + port, "http://[::1]" + port, "http://[::ffff:127.0.0.1]" + port, "http://127.9.9.9" + port,
	} {
		r := fetching(t, url)
		r.Fetch.AllowLoopback = false
		mustFail(t, r, "this machine itself", "allow-loopback-downloads")
	}
	for _, url := range []string{"http://169.254.169.254/latest/", "http://[fe80::1]/", "http://[fd00:ec2::254]/", "http://[::ffff:169.254.169.254]/"} {
		mustFail(t, fetching(t, url), "link-local")
	}
	t.Run("redirect", func(t *testing.T) {
		away := serve(t, func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "http://169.254.169.254/", http.StatusFound)
		}, httptest.NewServer)
		mustFail(t, fetching(t, away.URL), "link-local")
	})
	if len(s.requests) != 0 {
		t.Errorf("the server was asked %d times", len(s.requests))
	}
}

func TestProxy(t *testing.T) {
	proxy := serve(t, func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "by proxy: "+r.URL.String()) }, httptest.NewServer)
	r := fetching(t, "http://example.invalid/x")
	r.Fetch.AllowLoopback = false
	r.Fetch.Proxy.HTTP = proxy.URL
	if got := mustBuild(t, r); got != "by proxy: http://example.invalid/x" {
		t.Errorf("got %q", got)
	}
}
