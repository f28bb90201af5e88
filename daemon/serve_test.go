package daemon

import (
	"bytes"
	"io"
	"strings"
)

func contains(s, part string) bool { return strings.Contains(s, part) }

func newBytes(p []byte) io.Reader { return bytes.NewReader(p) }
