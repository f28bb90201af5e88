package local

import (
	"zombiezen.com/go/sqlite"
)

// schema makes the tables of a new store. Names, columns and constraints are
// those of Nix, which compares nothing else: statements that are there already
// leave what is there.
var schema = []string{
	`create table if not exists ValidPaths (
		id               integer primary key autoincrement not null,
		path             text unique not null,
		hash             text not null,
		registrationTime integer not null,
		deriver          text,
		narSize          integer,
		ultimate         integer,
		sigs             text,
		ca               text
	)`,
	`create table if not exists Refs (
		referrer  integer not null,
		reference integer not null,
		primary key (referrer, reference),
		foreign key (referrer) references ValidPaths(id) on delete cascade,
		foreign key (reference) references ValidPaths(id) on delete restrict
	)`,
	`create index if not exists IndexReferrer on Refs(referrer)`,
	`create index if not exists IndexReference on Refs(reference)`,
	`create trigger if not exists DeleteSelfRefs before delete on ValidPaths
	begin
		delete from Refs where referrer = old.id and reference = old.id;
	end`,
	`create table if not exists DerivationOutputs (
		drv  integer not null,
		id   text not null,
		path text not null,
		primary key (drv, id),
		foreign key (drv) references ValidPaths(id) on delete cascade
	)`,
	`create index if not exists IndexDerivationOutputs on DerivationOutputs(path)`,
	createMigrations,
}

const createMigrations = `create table if not exists SchemaMigrations (migration text primary key not null)`

// caMigration is what Nix 2.26 to 2.34 call the tables of caSchema.
const caMigration = "20220326-ca-derivations"

// caSchemaVersion is what Nix 2.8 calls them, in a file of their own. Without the
// file it would want the store for itself alone, to make the tables again.
const caSchemaVersion = 3

// caSchema makes the tables for realisations as Nix 2.8 to 2.34 have them. (Nix
// 2.35 adds one of its own, BuildTraceV3, when it needs it, and lets these be.)
var caSchema = []string{
	createMigrations,
	`create table if not exists Realisations (
		id         integer primary key autoincrement not null,
		drvPath    text not null,
		outputName text not null,
		outputPath integer not null,
		signatures text,
		foreign key (outputPath) references ValidPaths(id) on delete cascade
	)`,
	`create index if not exists IndexRealisations on Realisations(drvPath, outputName)`,
	`create trigger if not exists DeleteSelfRefsViaRealisations before delete on ValidPaths
	begin
		delete from RealisationsRefs where realisationReference in (
			select id from Realisations where outputPath = old.id
		);
	end`,
	`create table if not exists RealisationsRefs (
		referrer             integer not null,
		realisationReference integer,
		foreign key (referrer) references Realisations(id) on delete cascade,
		foreign key (realisationReference) references Realisations(id) on delete restrict
	)`,
	`create index if not exists IndexRealisationsRefsRealisationReference on RealisationsRefs(realisationReference)`,
	`create index if not exists IndexRealisationsRefs on RealisationsRefs(referrer)`,
	`create index if not exists IndexRealisationsRefsOnOutputPath on Realisations(outputPath)`,
	`insert or ignore into SchemaMigrations values ('` + caMigration + `')`,
}

// realisationLayout says in which tables realisations are.
type realisationLayout uint8

const (
	noRealisations     realisationLayout = iota
	legacyRealisations                   // Realisations, of Nix 2.8 to 2.34
	buildTrace                           // BuildTraceV3, of Nix 2.35 and later
)

func findRealisations(c *sqlite.Conn) (l realisationLayout, err error) {
	err = query(c, `select name from sqlite_master where type = 'table' and name in ('Realisations', 'BuildTraceV3')`,
		func(row *sqlite.Stmt) error {
			if row.ColumnText(0) == "BuildTraceV3" {
				l = buildTrace
			} else if l == noRealisations {
				l = legacyRealisations
			}
			return nil
		})
	return l, err
}

func execAll(c *sqlite.Conn, statements []string) error {
	for _, text := range statements {
		stmt, _, err := c.PrepareTransient(text)
		if err != nil {
			return &sqlError{err}
		}
		_, err = stmt.Step()
		if ferr := stmt.Finalize(); err == nil {
			err = ferr
		}
		if err != nil {
			return &sqlError{err}
		}
	}
	return nil
}
