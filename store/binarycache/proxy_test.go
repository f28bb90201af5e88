package binarycache

import (
	"encoding/pem"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// behindProxy has a process open the cache at a URL and do nothing else: what the environment says
// of proxies is read once in a process.
const behindProxy = "KILN_TEST_BEHIND_PROXY"

// A proxy passes requests on to one server, whatever they ask for, and knows for whom.
type proxy struct {
	plain http.Handler
	tls   string // address

	mu    sync.Mutex
	asked []string
}

func (p *proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	p.asked = append(p.asked, r.Method+" "+r.Host+" "+r.Header.Get("Proxy-Authorization"))
	p.mu.Unlock()
	if r.Method != http.MethodConnect {
		p.plain.ServeHTTP(w, r)
		return
	}
	server, err := net.Dial("tcp", p.tls)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer server.Close()
	client, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer client.Close()
	io.WriteString(client, "HTTP/1.1 200 Connection established\r\n\r\n")
	go func() {
		io.Copy(server, buffered)
		server.(*net.TCPConn).CloseWrite()
	}()
	io.Copy(client, server)
}

// TestProxy opens caches by the proxies that the environment names, or past them.
func TestProxy(t *testing.T) {
	if url := os.Getenv(behindProxy); url != "" {
		authorities, err := os.ReadFile(os.Getenv(behindProxy + "_CA"))
		if err != nil {
			t.Fatal(err)
		}
		c, err := OpenHTTP(t.Context(), url, Options{}, HTTPOptions{Attempts: 1, Authorities: authorities, ConnectTimeout: 2 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
		return
	}
	t.Parallel()
	files := t.TempDir()
	if _, err := OpenDirectory(t.Context(), files, Options{Create: true}); err != nil {
		t.Fatal(err)
	}
	handler := http.FileServer(http.Dir(files))
	secure := httptest.NewTLSServer(handler) // its certificate is for example.com
	defer secure.Close()
	ca := filepath.Join(t.TempDir(), "ca")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: secure.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		url, noProxy, asked string // "" for nobody, and then it is not found
	}{
		{"http://example.com", "", "GET example.com Basic bWU6c2VjcmV0"},
		{"https://example.com", "", "CONNECT example.com:443 Basic bWU6c2VjcmV0"},
		{"http://cache.invalid", "other.invalid,.invalid", ""},
		{"https://cache.invalid", "*", ""},
	} {
		p := &proxy{plain: handler, tls: secure.Listener.Addr().String()}
		server := httptest.NewServer(p)
		at := strings.Replace(server.URL, "http://", "http://me:secret@", 1)
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestProxy$")
		cmd.Env = []string{behindProxy + "=" + tt.url, behindProxy + "_CA=" + ca, "http_proxy=" + at, "https_proxy=" + at, "no_proxy=" + tt.noProxy}
		out, err := cmd.CombinedOutput()
		server.Close()
		if asked := strings.Join(p.asked, ", "); asked != tt.asked || (err == nil) != (tt.asked != "") {
			t.Errorf("%s with no_proxy=%s: the proxy was asked %q, %v\n%s", tt.url, tt.noProxy, asked, err, out)
		}
	}
}
