package mountns

import "errors"

// ErrAttached says that something is in the place of an attachment already.
var ErrAttached = errors.New("already exists in the sandbox")
