package local

import (
	"iter"

	"zombiezen.com/go/sqlite"
)

// A connection is one to the database, with a goroutine for its work. SQLite needs a
// deep stack, and a goroutine keeps the one that it once had: thousands that ask and
// then wait for something else must not have it.
//
// The goroutine is a coroutine (iter.Pull): it runs instead of the one that calls it.
// To hand each piece of work to another goroutine and back would wake two threads, which
// takes as long as registering an object.
type connection struct {
	*sqlite.Conn
	work func()
	turn func() (struct{}, bool)
	end  func()
}

func newConnection(c *sqlite.Conn) *connection {
	conn := &connection{Conn: c}
	conn.turn, conn.end = iter.Pull(func(yield func(struct{}) bool) {
		for yield(struct{}{}) {
			conn.work()
		}
	})
	conn.turn() // to the first piece of work
	return conn
}

// do calls f where there is room for it, and waits for its end. Only one may call it at
// a time.
func (c *connection) do(f func() error) (err error) {
	c.work = func() { err = f() }
	c.turn()
	return err
}

func (c *connection) close() error {
	c.end()
	return c.Close()
}
