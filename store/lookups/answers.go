package lookups

import (
	"strings"

	"github.com/kilnbuild/kiln/nix"
	"github.com/kilnbuild/kiln/nix/narinfo"
	"zombiezen.com/go/sqlite"
)

// An Answer says what is known of whether a cache has something.
type Answer uint8

// The answers.
const (
	Unknown Answer = iota
	Absent
	Present
)

// A Description is what a cache says of itself.
type Description struct {
	StoreDir      nix.StoreDir
	WantMassQuery bool
	Priority      int
}

// Describe gives what the cache at url has said of itself, if that is known. A URL has
// no slash at its end and no parameters.
func (c *Cache) Describe(url string) (d Description, ok bool) {
	c.with(func(conn *sqlite.Conn) error {
		return run(conn, "select id, storeDir, wantMassQuery, priority from BinaryCaches where url = ? and timestamp > ?", func(row *sqlite.Stmt) {
			c.file.caches[url] = row.ColumnInt64(0)
			d, ok = Description{nix.StoreDir(row.ColumnText(1)), row.ColumnInt64(2) != 0, int(row.ColumnInt64(3))}, true
		}, url, c.since(c.ttl.Meta))
	})
	return d, ok
}

// SetDescription remembers what the cache at url says of itself. Only of caches that
// have been described there is anything else to remember.
func (c *Cache) SetDescription(url string, d Description) {
	mass := int64(0)
	if d.WantMassQuery {
		mass = 1
	}
	c.with(func(conn *sqlite.Conn) error {
		err := run(conn, `insert into BinaryCaches (url, timestamp, storeDir, wantMassQuery, priority) values (?1, ?2, ?3, ?4, ?5)
			on conflict (url) do update set timestamp = ?2, storeDir = ?3, wantMassQuery = ?4, priority = ?5`, nil,
			url, c.file.now().Unix(), string(d.StoreDir), mass, int64(d.Priority))
		if err != nil {
			return err
		}
		return run(conn, "select id from BinaryCaches where url = ?", func(row *sqlite.Stmt) { c.file.caches[url] = row.ColumnInt64(0) }, url)
	})
}

// Narinfo gives what the cache at url, which is for the store directory dir, has said
// of the object with a hash part. With Present there is an Info.
func (c *Cache) Narinfo(url string, dir nix.StoreDir, hashPart string) (a Answer, info *narinfo.Info) {
	c.with(func(conn *sqlite.Conn) error {
		id, ok := c.file.caches[url]
		if !ok {
			return nil
		}
		return run(conn, `select present, namePart, url, compression, fileHash, fileSize, narHash, narSize, refs, deriver, sigs, ca from NARs
			where cache = ? and hashPart = ? and ((present = 0 and timestamp > ?) or (present = 1 and timestamp > ?))`,
			func(row *sqlite.Stmt) {
				if row.ColumnInt64(0) == 0 {
					a = Absent
				} else if info = read(row, dir, hashPart); info != nil {
					a = Present
				}
			}, id, hashPart, c.since(c.ttl.Negative), c.since(c.ttl.Positive))
	})
	return a, info
}

// read reads a row of NARs. It is not believed to be right: who could write the file
// could write anything. What is not is nil, as if it were not there.
func read(row *sqlite.Stmt, dir nix.StoreDir, hashPart string) *narinfo.Info {
	var b strings.Builder
	line := func(key, value string) { b.WriteString(key + ": " + strings.ReplaceAll(value, "\n", " ") + "\n") }
	line("StorePath", string(dir)+"/"+hashPart+"-"+row.ColumnText(1))
	line("URL", row.ColumnText(2))
	line("Compression", row.ColumnText(3))
	if s := row.ColumnText(4); s != "" {
		line("FileHash", s)
	}
	if s := row.ColumnText(5); s != "" {
		line("FileSize", s)
	}
	line("NarHash", row.ColumnText(6))
	line("NarSize", row.ColumnText(7))
	line("References", row.ColumnText(8))
	line("Deriver", row.ColumnText(9))
	for s := range strings.FieldsSeq(row.ColumnText(10)) {
		line("Sig", s)
	}
	if s := row.ColumnText(11); s != "" {
		line("CA", s)
	}
	info, err := narinfo.Parse(dir, []byte(b.String()))
	if err != nil {
		return nil
	}
	return info
}

// SetNarinfo remembers what the cache at url says of an object.
func (c *Cache) SetNarinfo(url string, i *narinfo.Info) {
	names := make([]string, len(i.References))
	for k, r := range i.References {
		names[k] = string(r)
	}
	c.with(func(conn *sqlite.Conn) error {
		id, ok := c.file.caches[url]
		if !ok {
			return nil
		}
		return run(conn, `insert or replace into NARs (cache, hashPart, namePart, url, compression, fileHash, fileSize,
			narHash, narSize, refs, deriver, sigs, ca, timestamp, present) values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, 1)`, nil,
			id, i.Path.HashPart(), i.Path.Name(), i.URL, i.Compression, hashText(i.FileHash), number(i.FileSize),
			i.NARHash.String(), i.NARSize, strings.Join(names, " "), text(string(i.Deriver)), strings.Join(i.Signatures, " "),
			addressText(i.CA), c.file.now().Unix())
	})
}

// SetAbsent remembers that the cache at url has no object with a hash part.
func (c *Cache) SetAbsent(url, hashPart string) {
	c.with(func(conn *sqlite.Conn) error {
		id, ok := c.file.caches[url]
		if !ok {
			return nil
		}
		return run(conn, "insert or replace into NARs (cache, hashPart, timestamp, present) values (?, ?, ?, 0)", nil, id, hashPart, c.file.now().Unix())
	})
}

// Forget forgets what is known of the object with a hash part: it turned out to be
// wrong.
func (c *Cache) Forget(url, hashPart string) {
	c.with(func(conn *sqlite.Conn) error {
		return run(conn, "delete from NARs where hashPart = ? and cache in (select id from BinaryCaches where url = ?)", nil, hashPart, url)
	})
}

// Realisation gives what the cache at url has said of an output of a derivation, as
// the text in which it did. Outputs are named as by Nix 2.34, "sha256:<base16>!<output>".
func (c *Cache) Realisation(url, output string) (a Answer, content []byte) {
	c.with(func(conn *sqlite.Conn) error {
		id, ok := c.file.caches[url]
		if !ok {
			return nil
		}
		return run(conn, `select content from Realisations where cache = ? and outputId = ? and
			((content is null and timestamp > ?) or (content is not null and timestamp > ?))`, func(row *sqlite.Stmt) {
			if a = Absent; row.ColumnType(0) != sqlite.TypeNull {
				a, content = Present, []byte(row.ColumnText(0))
			}
		}, id, output, c.since(c.ttl.Negative), c.since(c.ttl.Positive))
	})
	return a, content
}

// SetRealisation remembers what the cache at url says of an output, nil for nothing.
func (c *Cache) SetRealisation(url, output string, content []byte) {
	var value any
	if content != nil {
		value = string(content)
	}
	c.with(func(conn *sqlite.Conn) error {
		id, ok := c.file.caches[url]
		if !ok {
			return nil
		}
		return run(conn, "insert or replace into Realisations (cache, outputId, content, timestamp) values (?, ?, ?, ?)", nil,
			id, output, value, c.file.now().Unix())
	})
}

// What is not known is null where Nix has it so.

func text(s string) any {
	if s == "" {
		return nil
	}
	return s
}

func number(n int64) any {
	if n == 0 {
		return nil
	}
	return n
}

func hashText(h nix.Hash) any {
	if h.IsZero() {
		return nil
	}
	return h.String()
}

// addressText is never null, but empty.
func addressText(a nix.ContentAddress) string {
	if a.IsZero() {
		return ""
	}
	return a.String()
}
