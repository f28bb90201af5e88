// Package socket is where the clients of a daemon come from: a socket in the file
// system, one that systemd has opened, and who is at the other end. It also tells
// systemd how the daemon is doing.
package socket
