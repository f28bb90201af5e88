package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"net/url"
	"os"
	"time"

	"zombiezen.com/go/sqlite"
)

const (
	// maxConns bounds the connections to the database. One is enough for a process
	// that does one thing at a time, and a further one costs 2 ms and a megabyte.
	maxConns = 4
	// patience is how long a reader waits for a connection before it opens one.
	// Reading takes a twentieth of it.
	patience = 300 * time.Microsecond
	// checkpointPages is the size of the write-ahead log, in pages, from which on it
	// is moved into the database (Nix: wal_autocheckpoint).
	checkpointPages = 40000
)

var errClosed = errors.New("store is closed")

// database is the SQLite file of a store. It is safe for concurrent use.
type database struct {
	uri   string
	path  string // for messages
	flags sqlite.OpenFlags
	setup []string // statements for each new connection
	warn  func(error)

	idle    chan *connection
	room    chan struct{} // a token for each connection that may yet be opened
	writing chan struct{} // a token while nobody writes
	closing chan struct{} // closed when the database is
}

// databaseOptions say how the file is opened.
type databaseOptions struct {
	readOnly, sync, wal bool
	warn                func(error) // of long waits
}

// openDatabase opens the file and one connection.
func openDatabase(ctx context.Context, path string, opts databaseOptions) (*database, error) {
	d := &database{
		path: path, flags: sqlite.OpenReadWrite | sqlite.OpenURI, warn: opts.warn,
		idle: make(chan *connection, maxConns), room: make(chan struct{}, maxConns),
		writing: make(chan struct{}, 1), closing: make(chan struct{}),
	}
	d.writing <- struct{}{}
	for range maxConns {
		d.room <- struct{}{}
	}
	d.setURI("immutable=0")
	switch {
	case opts.readOnly:
		d.flags = sqlite.OpenReadOnly | sqlite.OpenURI
	case !opts.wal:
		// Neither the log nor locks of single bytes work on network file systems.
		d.setURI("vfs=unix-dotfile")
	}
	d.setup = []string{"pragma foreign_keys = 1"}
	if !opts.readOnly {
		// What a statement needs to undo itself would otherwise go to a file, which is
		// cut to nothing after each deletion: half of the time that these take.
		d.setup = append(d.setup, "pragma temp_store = memory")
		d.setup = append(d.setup, "pragma synchronous = "+map[bool]string{false: "off", true: "normal"}[opts.sync])
	}
	c, err := d.open(ctx)
	if err == nil && !opts.readOnly {
		err = d.setJournal(ctx, c, opts.wal)
	}
	if err == nil {
		// Reading something is what tells whether this is a database.
		err = d.retry(ctx, func() error { return query(c, "select 1 from sqlite_master", nil) })
	}
	if err != nil && opts.readOnly && d.flags&sqlite.OpenReadOnly != 0 && !exists(path+"-wal") {
		// Readers of a database with a write-ahead log want to write next to it. When
		// nobody has it open, the file alone is the truth.
		if c != nil {
			c.Close()
		}
		d.setURI("immutable=1")
		if c, err = d.open(ctx); err == nil {
			err = query(c, "select 1 from sqlite_master", nil)
		}
	}
	if err != nil {
		if c != nil {
			c.Close()
		}
		return nil, d.wrap(err)
	}
	<-d.room
	d.idle <- newConnection(c)
	return d, nil
}

func (d *database) setURI(parameter string) {
	d.uri = (&url.URL{Scheme: "file", OmitHost: true, Path: d.path, RawQuery: parameter}).String()
}

// open opens a connection.
func (d *database) open(ctx context.Context) (*sqlite.Conn, error) {
	c, err := sqlite.OpenConn(d.uri, d.flags)
	if err != nil {
		return nil, &sqlError{err}
	}
	// Waiting for other processes is done by retry, which can be cancelled.
	c.SetBusyTimeout(0)
	for _, text := range d.setup {
		if err := d.retry(ctx, func() error { return execAll(c, []string{text}) }); err != nil {
			c.Close()
			return nil, err
		}
	}
	return c, nil
}

// setJournal chooses how transactions are kept whole.
func (d *database) setJournal(ctx context.Context, c *sqlite.Conn, wal bool) error {
	mode := "truncate"
	if wal {
		mode = "wal"
	}
	d.setup = append(d.setup, "pragma journal_size_limit = 1099511627776", fmt.Sprintf("pragma wal_autocheckpoint = %d", checkpointPages))
	return d.retry(ctx, func() error {
		var now string
		if err := query(c, "pragma main.journal_mode", func(row *sqlite.Stmt) error { now = row.ColumnText(0); return nil }); err != nil {
			return err
		}
		if now != mode {
			if err := query(c, "pragma main.journal_mode = "+mode, nil); err != nil {
				return err
			}
		}
		return execAll(c, d.setup[len(d.setup)-2:])
	})
}

// get gives a connection, which put takes back.
func (d *database) get(ctx context.Context) (*connection, error) {
	select {
	case <-d.closing:
		return nil, errClosed
	default:
	}
	select {
	case c := <-d.idle:
		return c, nil
	default:
	}
	wait := time.NewTimer(patience)
	defer wait.Stop()
	select {
	case c := <-d.idle:
		return c, nil
	case <-wait.C:
	case <-d.closing:
		return nil, errClosed
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	select {
	case c := <-d.idle:
		return c, nil
	case <-d.room:
		c, err := d.open(ctx)
		if err != nil {
			d.room <- struct{}{}
			return nil, d.wrap(err)
		}
		return newConnection(c), nil
	case <-d.closing:
		return nil, errClosed
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func (d *database) put(c *connection) { d.idle <- c }

// read lets f read. f may be called again if it failed.
func (d *database) read(ctx context.Context, f func(*sqlite.Conn) error) error {
	c, err := d.get(ctx)
	if err != nil {
		return err
	}
	defer d.put(c)
	return d.wrap(c.do(func() error {
		return d.retry(ctx, func() error { return f(c.Conn) })
	}))
}

// snapshot is read, with all that f sees from one moment.
func (d *database) snapshot(ctx context.Context, f func(*sqlite.Conn) error) error {
	return d.read(ctx, func(c *sqlite.Conn) error {
		if err := query(c, "begin", nil); err != nil {
			return err
		}
		err := f(c)
		// Ending a transaction that wrote nothing cannot fail in a way that matters.
		_ = query(c, "rollback", nil)
		return err
	})
}

// write lets f change the database in one transaction. f may be called again if
// it failed. While it runs nobody else writes.
func (d *database) write(ctx context.Context, f func(*sqlite.Conn) error) error {
	select {
	case <-d.writing:
	case <-d.closing:
		return errClosed
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	defer func() { d.writing <- struct{}{} }()
	c, err := d.get(ctx)
	if err != nil {
		return err
	}
	defer d.put(c)
	return d.wrap(c.do(func() error { return d.change(ctx, c.Conn, f) }))
}

// change carries out one transaction.
func (d *database) change(ctx context.Context, c *sqlite.Conn, f func(*sqlite.Conn) error) error {
	return d.retry(ctx, func() error {
		// Asking for the right to write at once leaves no later moment at which it
		// could be refused.
		if err := query(c, "begin immediate", nil); err != nil {
			return err
		}
		err := f(c)
		if err == nil {
			err = query(c, "commit", nil)
		}
		if err != nil && !c.AutocommitEnabled() {
			if rerr := query(c, "rollback", nil); rerr != nil {
				err = fmt.Errorf("%w; and then: %w", err, rerr)
			}
		}
		return err
	})
}

// remarkable is how long another process may keep the database busy before that is
// worth a word.
const remarkable = 10 * time.Second

// retry repeats call while another process keeps the database busy.
func (d *database) retry(ctx context.Context, call func() error) error {
	delay := time.Millisecond
	var waited time.Duration
	for {
		err := call()
		switch sqlite.ErrCode(err).ToPrimary() {
		case sqlite.ResultBusy, sqlite.ResultProtocol:
		default:
			return err
		}
		pause := delay/2 + rand.N(delay)
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
			delay = min(2*delay, 50*time.Millisecond)
			if waited < remarkable && waited+pause >= remarkable {
				d.warn(fmt.Errorf("database '%s' is busy: waiting for another process", d.path))
			}
			waited += pause
		case <-ctx.Done():
			timer.Stop()
			return fmt.Errorf("wait for other users of the database: %w", context.Cause(ctx))
		}
	}
}

// wrap adds to errors of SQLite which file they are about, and what can be done.
func (d *database) wrap(err error) error {
	if sql := (*sqlError)(nil); !errors.As(err, &sql) {
		return err
	}
	err = fmt.Errorf("database '%s': %w", d.path, err)
	switch sqlite.ErrCode(err).ToPrimary() {
	case sqlite.ResultFull:
		err = &advised{err, "free some space there, for example by collecting garbage"}
	case sqlite.ResultReadOnly, sqlite.ResultCantOpen, sqlite.ResultPerm:
		if cause := accessible(d.path); cause != nil {
			err = fmt.Errorf("%w: %w", err, explain(cause))
		}
	case sqlite.ResultCorrupt, sqlite.ResultNotADB:
		err = &advised{err, "the file is damaged, restore it from a backup"}
	}
	return err
}

// sqlError is an error that SQLite gave, not one of ours about what was read.
type sqlError struct{ err error }

func (e *sqlError) Error() string { return e.err.Error() }
func (e *sqlError) Unwrap() error { return e.err }

// accessible gives the error of opening the database file as it must be, or of
// making files beside it.
func accessible(path string) error {
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return writable(path[:len(path)-len("/db.sqlite")])
}

func exists(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

// close waits until all connections are idle, and closes them.
func (d *database) close() error {
	close(d.closing)
	var err error
	for range maxConns {
		select {
		case c := <-d.idle:
			if cerr := c.close(); cerr != nil {
				err = errors.Join(err, &sqlError{cerr})
			}
		case <-d.room:
		}
	}
	return d.wrap(err)
}

// query runs a statement with its parameters, strings, integers or nil, and calls
// row for each row of the result. The first error of row ends it.
func query(c *sqlite.Conn, text string, row func(*sqlite.Stmt) error, args ...any) error {
	stmt, err := c.Prepare(text)
	if err != nil {
		return &sqlError{err}
	}
	for i, arg := range args {
		switch arg := arg.(type) {
		case string:
			stmt.BindText(i+1, arg)
		case int64:
			stmt.BindInt64(i+1, arg)
		case nil:
			stmt.BindNull(i + 1)
		default:
			return fmt.Errorf("bind parameter %d of %q: unexpected type %T", i+1, text, arg)
		}
	}
	for {
		more, err := stmt.Step()
		if err != nil {
			return &sqlError{err}
		}
		if !more {
			return nil
		}
		if row == nil {
			continue
		}
		if err := row(stmt); err != nil {
			_ = stmt.Reset()
			return err
		}
	}
}
