package docs

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/spf13/cobra"
)

const page = "# Top\n\nOne `a-b`\ntwo.\n\n* an item\n  of two lines\n* another\n\n    code\n\n      more\n\n## Next\n\n.dots and [links](x.md) \\\n"

func TestMarkdown(t *testing.T) {
	blocks, err := parse(page)
	if err != nil {
		t.Fatal(err)
	}
	want := "# Top\n\nOne `a-b` two.\n\n* an item of two lines\n* another\n\n    code\n\n      more\n\n## Next\n\n.dots and [links](x.md) \\\n"
	if diff := cmp.Diff(want, markdown(blocks)); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestRoff(t *testing.T) {
	blocks, err := parse(page)
	if err != nil {
		t.Fatal(err)
	}
	got := roff("kiln-x", "1", "2026-01-02", append(blocks, block{term, 0, "`--x`"}, block{paragraph, 0, "'quoted' – …"}))
	want := `.\" Written by make docs.
.TH KILN-X 1 2026-01-02 kiln "kiln manual"
One \fB\%a\-b\fP two.
.IP \(bu 2
an item of two lines
.IP \(bu 2
another
.PP
.RS 4
.EX
code

  more
.EE
.RE
.SH NEXT
\&.dots and links \e
.TP
\fB\%\-\-x\fP
\&'quoted' \- \[u2026]
`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestParseRefusesWhatItDoesNotKnow(t *testing.T) {
	for _, text := range []string{"| a | b |", "```\ncode\n```", "- item"} {
		if _, err := parse(text); err == nil {
			t.Errorf("%q is taken for something", text)
		}
	}
}

func TestWrap(t *testing.T) {
	if got, want := wrap("aaa bbb * ccc ddd 1. e", 7, " "), "aaa bbb *\n ccc ddd 1.\n e\n"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestManual(t *testing.T) {
	root := &cobra.Command{Use: "tool", Short: "Do things"}
	c := &cobra.Command{
		Use: "sub-do THING…", Short: "Do a thing", Run: func(*cobra.Command, []string) {},
		Long: "Does a thing.\n\nOr\ntwo:\n\n    do -x\n    do -y",
	}
	c.Flags().BoolP("all", "a", false, "do all")
	c.Flags().String("out", "here", "where to `FILE` it")
	c.Flags().Int("n", 0, "how often?")
	c.Flags().Lookup("n").NoOptDefVal = "1"
	c.Flags().CountP("more", "m", "more")
	root.PersistentFlags().Bool("hidden", false, "nothing to see")
	if err := root.PersistentFlags().MarkHidden("hidden"); err != nil {
		t.Fatal(err)
	}
	root.AddCommand(c, &cobra.Command{Use: "secret", Hidden: true, Run: c.Run})

	if names := Commands(root); len(names) != 2 || PageName(names[1]) != "tool-sub-do" {
		t.Errorf("commands are %v", names)
	}
	got, err := Manual(c, "2026-01-02")
	if err != nil {
		t.Fatal(err)
	}
	want := `.\" Written by make docs.
.TH TOOL-SUB-DO 1 2026-01-02 kiln "kiln manual"
.SH NAME
tool-sub-do \- do a thing
.SH SYNOPSIS
\fB\%tool \%sub\-do\fP [FLAGS] THING\[u2026]
.SH DESCRIPTION
Does a thing.
.PP
Or two:
.PP
.RS 4
.EX
do \-x
do \-y
.EE
.RE
.SH FLAGS
.TP
\fB\%\-a\fP, \fB\%\-\-all\fP
Do all.
.TP
\fB\%\-h\fP, \fB\%\-\-help\fP
Print a summary of the command and its flags.
.TP
\fB\%\-m\fP, \fB\%\-\-more\fP
More.
.TP
\fB\%\-\-n\fP[\fB\%=\fPINT]
How often?
.TP
\fB\%\-\-out\fP FILE
Where to FILE it (default: \fB\%here\fP).
.SH SEE ALSO
\fB\%tool\fP(1), \fB\%kiln\-settings\fP(5)
`
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if got, err = Manual(root, "2026-01-02"); err != nil || strings.Contains(got, "secret") || strings.Contains(got, "hidden") {
		t.Errorf("the root's page, %v:\n%s", err, got)
	}
}

// TestLint lets mandoc look at the pages in docs.
func TestLint(t *testing.T) {
	mandoc, err := exec.LookPath("mandoc")
	if err != nil {
		t.Skip("mandoc is not installed here")
	}
	pages, err := filepath.Glob("../../docs/man/*")
	if err != nil || len(pages) == 0 {
		t.Fatalf("no manual pages: %v", err)
	}
	if out, err := exec.Command(mandoc, append([]string{"-T", "lint", "-W", "style"}, pages...)...).CombinedOutput(); err != nil || len(out) > 0 {
		t.Errorf("mandoc: %v\n%s", err, out)
	}
}
