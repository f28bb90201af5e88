// Package nar is the Nix archive format: one file tree as one stream of bytes,
// the same stream for the same tree wherever it is made (Nix manual, "Nix Archive
// (NAR) format"; Dolstra, "The Purely Functional Software Deployment Model",
// section 5.2). An archive holds regular files, with an executable bit and
// nothing else, directories and symbolic links.
//
// Reader and Writer are the codec. Dump makes an archive of a tree on disk, and
// Restore makes a tree of an archive, in the canonical form of store objects.
// CopyArchive and Skip pass one archive of a stream on, or over.
//
// Archives come from strangers. A Reader accepts exactly the archives that a
// Writer makes, so that whatever was accepted has one form and one hash; it
// refuses everything else with the offset, within limits of its own for every
// length, depth and count, and without memory that grows with any of them but
// the depth. Trees on disk may belong to strangers too: they are walked by
// descriptor, never by path.
//
// The package knows nothing of stores, hashes or references. What has to happen
// to each inode of a tree that is dumped anyway, say making it canonical, goes
// into Dump's walk as a function.
package nar
