//go:build !linux && !darwin

package local

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"os"

	"github.com/kilnbuild/kiln/nix/nar"
)

// The constants and functions below are those of the supported systems. Here
// each function that can fail does, with errors.ErrUnsupported.

const (
	lockShared = 1 << iota
	lockExclusive
	unlocked

	openNoFollow = 0
)

func flock(*os.File, int) error                            { return errors.ErrUnsupported }
func tryFlock(*os.File, int) (bool, error)                 { return false, errors.ErrUnsupported }
func openLock(string) (*os.File, error)                    { return nil, errors.ErrUnsupported }
func openExisting(string) (*os.File, error)                { return nil, errors.ErrUnsupported }
func isLinked(*os.File) (bool, error)                      { return false, errors.ErrUnsupported }
func owner(string) int                                     { return -1 }
func user(fs.FileInfo) int                                 { return -1 }
func group(fs.FileInfo) int                                { return -1 }
func writable(string) error                                { return errors.ErrUnsupported }
func isFull(error) bool                                    { return false }
func isReadOnly(error) bool                                { return false }
func isCrossDevice(error) bool                             { return false }
func isTooManyLinks(error) bool                            { return false }
func listAttributes(*nar.Inode, []byte) (int, error)       { return 0, errors.ErrUnsupported }
func removeAttribute(*nar.Inode, string) error             { return errors.ErrUnsupported }
func changeOwner(*nar.Inode, int, int) error               { return errors.ErrUnsupported }
func link(int, string, int, string) error                  { return errors.ErrUnsupported }
func dialSocket(context.Context, string) (net.Conn, error) { return nil, errors.ErrUnsupported }
func listenSocket(string) (net.Listener, error)            { return nil, errors.ErrUnsupported }
func allocate(*os.File, int64) error                       { return errors.ErrUnsupported }
func syncFileSystem(*os.File) error                        { return errors.ErrUnsupported }
func startWriting(*os.File)                                {}
