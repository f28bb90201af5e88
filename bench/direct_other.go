//go:build !linux

package main

import (
	"io"
	"net"
)

func direct(conn *net.UnixConn) (io.ReadWriter, func(), error) { return conn, func() {}, nil }
