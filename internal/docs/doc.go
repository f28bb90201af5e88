// Package docs writes those pages of the documentation that follow from the
// program itself: docs/configuration.md and kiln-settings(5) from the table of
// settings, and a manual page for each command from the command tree. What a
// table cannot know is written by hand in text/, in a small part of Markdown.
//
// A test of cmd/kiln holds the pages in docs against what comes out here, and
// writes them anew for `make docs`. Nothing of this is in the program.
package docs
