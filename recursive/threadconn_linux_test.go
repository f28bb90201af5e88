package recursive

import (
	"io"
	"net"
	"path/filepath"
	"testing"
	"time"
)

// connected gives both ends of a connection by a socket.
func connected(t *testing.T) (server, client net.Conn) {
	t.Helper()
	listener, err := net.Listen("unix", filepath.Join(t.TempDir(), "socket"))
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	if client, err = net.Dial("unix", listener.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if server, err = listener.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Close(); client.Close() })
	return server, client
}

func TestThreadConn(t *testing.T) {
	server, client := connected(t)
	conn, done := onThread(server)
	defer done()
	if _, ok := conn.(*threadConn); !ok {
		t.Fatalf("a socket became a %T", conn)
	}
	go client.Write([]byte("ask"))
	got := make([]byte, 3)
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != "ask" {
		t.Fatalf("read %q, %v", got, err)
	}
	if _, err := conn.Write([]byte("tell")); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() {
		_, err := conn.Read(got)
		ended <- err
	}()
	time.Sleep(10 * time.Millisecond) // the reader most likely waits
	if err := conn.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	select {
	case err := <-ended:
		if err == nil {
			t.Error("something was read from a closed connection")
		}
	case <-time.After(10 * time.Second):
		t.Fatal("closing does not end reading")
	}
	if told, err := io.ReadAll(client); err != nil || string(told) != "tell" {
		t.Errorf("the client read %q, %v", told, err)
	}
}

func TestThreadConnsAreBounded(t *testing.T) {
	for range maxThreadConns {
		threadConns <- struct{}{}
	}
	server, _ := connected(t)
	conn, done := onThread(server)
	done()
	if conn != io.ReadWriteCloser(server) {
		t.Errorf("one too many became a %T", conn)
	}
	for range maxThreadConns {
		<-threadConns
	}
	conn, done = onThread(server)
	defer done()
	defer conn.Close()
	if _, ok := conn.(*threadConn); !ok {
		t.Errorf("there is room, and it became a %T", conn)
	}
}
