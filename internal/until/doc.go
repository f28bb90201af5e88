// Package until has work that goes on until a context ends: reading, writing, and many
// calls of one function, some of them at once.
package until
