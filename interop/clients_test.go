//go:build linux

package interop

import (
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/kilnbuild/kiln/internal/testenv"
)

// A clientRow is what somebody does with real Nix. It is done with kiln's daemon and with
// real Nix's own; it has to succeed, and everything printed is to be the same.
type clientRow struct {
	name   string
	script string // in a shell; see prelude
	want   string // is a part of what is printed
	since  string // the first release of clients that can do this, "" if all can
	until  string // the first release that cannot any more, "" if all can
	often  bool   // it is also done where there is no time for all
	unlike string // why kiln does it in another way than Nix, "" where it does not
}

// TestClients has the clients of several releases do everything that they do with a
// daemon, as root and as an ordinary user, and compares what comes of it with what real
// Nix's daemon makes of the same: what is printed, and then both stores. That takes
// minutes, so it is for the table of KILN_INTEROP_TABLE=1. Without it some of the rows are
// done, by fewer clients, and compared with what the rows themselves say.
func TestClients(t *testing.T) {
	needs(t)
	host := hostNix(t)
	switch {
	case !testenv.Root() && wantsTable():
		testClients(t, host, host, 0)
	case !testenv.Root():
		testClients(t, host, nil, 0)
	case wantsTable():
		newest := newestNix(t)
		for _, user := range []int{0, ordinaryUser} {
			for _, client := range []*release{host, otherNix(t, middleSeries), newest} {
				testClients(t, client, newest, user)
			}
		}
	default:
		if os.Getenv("KILN_ORDINARY_FOLLOWS") != "1" { // who has the old client
			testClients(t, host, nil, 0)
		}
		testClients(t, newestNix(t), nil, 0)
	}
}

// ordinaryUser is a user that no machine has.
const ordinaryUser = 899_999_998

// testClients runs the rows with a client, and a release for the daemon to compare with,
// which may be nil.
func testClients(t *testing.T, client, daemon *release, user int) {
	column := client.version
	if user != 0 || !testenv.Root() {
		column += " user"
	}
	for _, group := range clientGroups { // they run side by side; the table has an order
		for _, row := range group.rows {
			clientTable.set(row.name, column, "")
		}
	}
	for i, group := range clientGroups {
		if i > 0 && os.Getenv("KILN_ROOT_RAN") == "1" {
			break // root has just done the others, and who runs kiln makes no difference to them
		}
		t.Run(column+" "+group.name, func(t *testing.T) {
			t.Parallel()
			if group.kind.far && user != 0 {
				t.Skip("only users with an account can log in")
			}
			if group.kind.far && testenv.Root() && !wantsTable() && !client.atLeast(newestSeries) {
				t.Skip("one client by ssh will do where not all rows are done")
			}
			takeLane(t)
			id := strings.ReplaceAll(column+" "+group.name, " ", "-")
			kiln := newWorld(t, id, client, user, group.kind)
			kiln.startKiln()
			var nix *world
			if daemon != nil {
				nix = newWorld(t, id, client, user, group.kind)
				nix.startNix(daemon)
			}
			for _, row := range group.rows {
				if !row.often && !wantsTable() {
					continue
				}
				if row.since != "" && !client.atLeast(row.since) || row.until != "" && client.atLeast(row.until) {
					continue
				}
				sign := "="
				if row.unlike != "" {
					sign = "~"
				}
				if !t.Run(row.name, func(t *testing.T) { row.run(t, nix, kiln) }) {
					sign = "FAILED"
				}
				clientTable.set(row.name, column, sign)
			}
			if nix != nil && !group.kind.placed {
				sign := "="
				if !t.Run("stores", func(t *testing.T) { sameStores(t, nix, kiln) }) {
					sign = "FAILED"
				}
				clientTable.set(group.name+": the stores afterwards", column, sign)
			}
		})
	}
}

// run does a row in one or both worlds.
func (r clientRow) run(t *testing.T, nix, kiln *world) {
	var n, k outcome
	var errs [2]error
	var both sync.WaitGroup
	if nix != nil {
		both.Go(func() { n, errs[0] = nix.script(r.script) })
	}
	k, errs[1] = kiln.script(r.script)
	both.Wait()
	for _, err := range errs {
		if err != nil {
			t.Fatal(err)
		}
	}
	printed := strings.Join(k.stdout, "\n")
	if k.exit != 0 || printed == "" || !strings.Contains(printed, r.want) {
		t.Errorf("exit %d, want %q in:\n%s", k.exit, r.want, printed)
	}
	if nix != nil && n.exit != 0 {
		t.Errorf("with Nix's daemon: exit %d:\n%s", n.exit, strings.Join(n.stdout, "\n"))
	}
	if nix != nil && r.unlike == "" {
		if d := cmp.Diff(n.stdout, k.stdout); d != "" {
			t.Errorf("printed (-nix +kiln):\n%s", d)
		}
	}
	if t.Failed() {
		t.Logf("on standard error, with kiln's daemon:\n%s\nwith Nix's:\n%s", ending(k.stderr), ending(n.stderr))
	}
}

// sameStores compares everything in two stores.
func sameStores(t *testing.T, nix, kiln *world) {
	machine := hostNix(t)
	of := func(w *world) *snapshot {
		snap := take(t, &side{name: "nix", release: machine, scene: w.scene, store: w.root})
		for path, o := range snap.objects {
			// What is never the same twice: the second has the variables of a shell.
			if strings.HasSuffix(path, "-unsteady") || strings.HasSuffix(path, "-shell-env") {
				o.NarHash = ""
				snap.objects[path] = o
			}
		}
		return snap
	}
	n, k := of(nix), of(kiln)
	same := func(what string, n, k any) {
		t.Helper()
		if d := cmp.Diff(n, k, cmpopts.EquateEmpty()); d != "" {
			t.Errorf("%s differ (-nix +kiln):\n%s", what, d)
		}
	}
	same("the valid paths", slices.Sorted(maps.Keys(n.objects)), slices.Sorted(maps.Keys(k.objects)))
	same("what is known of paths", n.objects, k.objects)
	same("files", n.files, k.files)
	same("logs", n.logs, k.logs)
	same("what is in the store directory that is no valid path", []string(nil), k.strays)
	machine.verify(t, kiln.scene, kiln.root)
}
