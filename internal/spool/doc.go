// Package spool keeps what is read once and needed again: in memory if there is little of
// it, else in a file without a name.
package spool
