// Package compare says in what two trees of files differ, in the terms of store
// objects: content, executable bit, link targets, types, and which files there
// are. Owners, times and other permissions are of no interest.
//
// It is for a person who wants to know why a derivation built again came out
// differently. It knows files and nothing of stores, and it decides nothing:
// whether two objects are the same is for their hashes to say.
package compare
