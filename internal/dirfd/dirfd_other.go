//go:build !linux && !darwin

package dirfd

import "errors"

func openPath(string) (int, error) { return -1, errors.ErrUnsupported }

// The functions below are those of the supported systems. Here each of them
// returns errors.ErrUnsupported.

func OpenFile(int, string) (int, error)                              { return -1, errors.ErrUnsupported }
func OpenDir(int, string) (int, error)                               { return -1, errors.ErrUnsupported }
func OpenDirHere(int, string) (int, error)                           { return -1, errors.ErrUnsupported }
func OpenUp(int) (int, error)                                        { return -1, errors.ErrUnsupported }
func Create(int, string, uint32) (int, error)                        { return -1, errors.ErrUnsupported }
func Close(int) error                                                { return errors.ErrUnsupported }
func Read(int, []byte) (int, error)                                  { return 0, errors.ErrUnsupported }
func Write(int, []byte) error                                        { return errors.ErrUnsupported }
func Fstat(int, *Stat) error                                         { return errors.ErrUnsupported }
func StatAt(int, string, *Stat) error                                { return errors.ErrUnsupported }
func Readlink(int, string, []byte) (string, error)                   { return "", errors.ErrUnsupported }
func Mkdir(int, string, uint32) error                                { return errors.ErrUnsupported }
func SymlinkAt(string, int, string) error                            { return errors.ErrUnsupported }
func Unlink(int, string) error                                       { return errors.ErrUnsupported }
func Rmdir(int, string) error                                        { return errors.ErrUnsupported }
func Rename(int, string, int, string) error                          { return errors.ErrUnsupported }
func RenameNew(int, string, int, string) error                       { return errors.ErrUnsupported }
func Fchmod(int, uint32) error                                       { return errors.ErrUnsupported }
func Chmod(int, string, uint32) error                                { return errors.ErrUnsupported }
func SetMtime(int, int64) error                                      { return errors.ErrUnsupported }
func SetMtimeAt(int, string, int64) error                            { return errors.ErrUnsupported }
func List(int, []byte, func(name []byte, t Type) error) error        { return errors.ErrUnsupported }
func ListQuickly(int, []byte, func(name []byte, t Type) error) error { return errors.ErrUnsupported }
func Rewind(int) error                                               { return errors.ErrUnsupported }
func IsRoot() bool                                                   { return false }
