package lookups

import (
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"sync"
	"time"

	"zombiezen.com/go/sqlite"
)

// FileName is what Nix 2.34 calls the file, in the directory for caches of a user.
const FileName = "binary-cache-v7.sqlite"

const (
	// patience is how long to wait for others who use the file. Nobody has it for long,
	// and a cache is asked sooner than that.
	patience = 2 * time.Second
	// purgeInterval is how often what is too old is deleted, and the least ages are what
	// is kept in any case (Nix: purgeInterval).
	purgeInterval = 24 * time.Hour
	leastPositive = 30 * 24 * time.Hour
	leastNegative = time.Hour
)

var schema = []string{
	`create table if not exists BinaryCaches (
		id        integer primary key autoincrement not null,
		url       text unique not null,
		timestamp integer not null,
		storeDir  text not null,
		wantMassQuery integer not null,
		priority  integer not null
	)`,
	`create table if not exists NARs (
		cache            integer not null,
		hashPart         text not null,
		namePart         text,
		url              text,
		compression      text,
		fileHash         text,
		fileSize         integer,
		narHash          text,
		narSize          integer,
		refs             text,
		deriver          text,
		sigs             text,
		ca               text,
		timestamp        integer not null,
		present          integer not null,
		primary key (cache, hashPart),
		foreign key (cache) references BinaryCaches(id) on delete cascade
	)`,
	`create table if not exists Realisations (
		cache integer not null,
		outputId text not null,
		content blob,
		timestamp        integer not null,
		primary key (cache, outputId),
		foreign key (cache) references BinaryCaches(id) on delete cascade
	)`,
	`create table if not exists LastPurge (
		dummy            text primary key,
		value            integer
	)`,
}

// TTL says for how long answers count.
type TTL struct {
	Positive time.Duration // that a cache has something
	Negative time.Duration // that it has not
	Meta     time.Duration // what it says of itself
}

// Cache remembers answers. It is safe for concurrent use.
type Cache struct {
	file *file
	ttl  TTL
}

// file is the open file, which those with different TTLs share.
type file struct {
	path string
	now  func() time.Time

	mu     sync.Mutex
	conn   *sqlite.Conn     // nil after Close
	caches map[string]int64 // what was found in BinaryCaches: ids by URL
}

// Open opens the file at path, or makes it. wal is false where the file system is one
// on which SQLite must lock by files. The Cache is to be closed.
func Open(path string, ttl TTL, wal bool) (*Cache, error) {
	c := &Cache{&file{path: path, now: time.Now, caches: make(map[string]int64)}, ttl}
	if err := c.open(wal); err != nil {
		return nil, fmt.Errorf("open '%s', which remembers what binary caches have: %w", path, err)
	}
	return c, nil
}

func (c *Cache) open(wal bool) error {
	if err := os.MkdirAll(filepath.Dir(c.file.path), 0o755); err != nil {
		return err
	}
	uri := &url.URL{Scheme: "file", OmitHost: true, Path: c.file.path}
	if !wal {
		uri.RawQuery = "vfs=unix-dotfile"
	}
	conn, err := sqlite.OpenConn(uri.String(), sqlite.OpenReadWrite|sqlite.OpenCreate|sqlite.OpenURI)
	if err != nil {
		return err
	}
	c.file.conn = conn
	conn.SetBusyTimeout(patience)
	// What is lost in a crash is asked for again, so nothing waits for the disk.
	setup := append([]string{"pragma synchronous = off", "pragma main.journal_mode = truncate", "pragma foreign_keys = 1"}, schema...)
	for _, text := range setup {
		if err = run(conn, text, nil); err != nil {
			break
		}
	}
	if err == nil {
		err = c.purge()
	}
	if err != nil {
		conn.Close()
	}
	return err
}

// With is the same Cache for which answers count for another time. It is not to be
// closed.
func (c *Cache) With(ttl TTL) *Cache { return &Cache{c.file, ttl} }

// Close closes the file. What is asked and told afterwards has no effect.
func (c *Cache) Close() error {
	c.file.mu.Lock()
	defer c.file.mu.Unlock()
	if c.file.conn == nil {
		return nil
	}
	err := c.file.conn.Close()
	c.file.conn = nil
	if err != nil {
		return fmt.Errorf("close '%s': %w", c.file.path, err)
	}
	return nil
}

// purge deletes what is too old for everybody, from time to time.
func (c *Cache) purge() error {
	now, last := c.file.now(), int64(0)
	err := run(c.file.conn, "select value from LastPurge", func(row *sqlite.Stmt) { last = row.ColumnInt64(0) })
	if err != nil || last >= now.Add(-purgeInterval).Unix() {
		return err
	}
	err = run(c.file.conn, "delete from NARs where (present = 0 and timestamp < ?) or (present = 1 and timestamp < ?)", nil,
		now.Add(-max(c.ttl.Negative, leastNegative)).Unix(), now.Add(-max(c.ttl.Positive, leastPositive)).Unix())
	if err == nil {
		err = run(c.file.conn, "insert or replace into LastPurge (dummy, value) values ('', ?)", nil, now.Unix())
	}
	return err
}

// since is the time that an answer must not be older than.
func (c *Cache) since(ttl time.Duration) int64 { return c.file.now().Add(-ttl).Unix() }

// with lets f use the file. Whether that went well is of no interest to anybody.
func (c *Cache) with(f func(conn *sqlite.Conn) error) bool {
	c.file.mu.Lock()
	defer c.file.mu.Unlock()
	return c.file.conn != nil && f(c.file.conn) == nil
}

// run runs a statement with its parameters, and calls row for each row of the result.
func run(conn *sqlite.Conn, text string, row func(*sqlite.Stmt), args ...any) error {
	stmt, err := conn.Prepare(text)
	if err != nil {
		return err
	}
	for i, arg := range args {
		switch arg := arg.(type) {
		case string:
			stmt.BindText(i+1, arg)
		case int64:
			stmt.BindInt64(i+1, arg)
		default:
			stmt.BindNull(i + 1)
		}
	}
	for {
		more, err := stmt.Step()
		if err != nil || !more {
			return err
		}
		if row != nil {
			row(stmt)
		}
	}
}
