// Package netrc reads files with names and passwords for servers (netrc(5), as curl
// reads it): the setting netrc-file.
package netrc

import "strings"

// Credentials are a name and a password for a server.
type Credentials struct{ User, Password string }

// Find looks a host up in the text of a file: words, "machine" or "default" with
// "login" and "password" after it. The first entry that fits is taken. Macros end
// with an empty line. It does not fail: what it cannot read means nothing.
func Find(netrc, host string) (Credentials, bool) {
	var found Credentials
	here, any := false, false
	lines := strings.Split(netrc, "\n")
	for i := 0; i < len(lines); i++ {
		words := strings.Fields(lines[i])
		for w := 0; w < len(words); w++ {
			if strings.HasPrefix(words[w], "#") {
				break
			}
			next := func() string {
				w++
				for w >= len(words) && i+1 < len(lines) { // the value is on a later line
					i++
					words, w = strings.Fields(lines[i]), 0
				}
				if w >= len(words) {
					return ""
				}
				return words[w]
			}
			switch words[w] {
			case "machine":
				if here {
					return found, any
				}
				here = strings.EqualFold(next(), host)
			case "default":
				if here {
					return found, any
				}
				here = true
			case "login":
				if name := next(); here {
					found.User, any = name, true
				}
			case "password":
				if password := next(); here {
					found.Password, any = password, true
				}
			case "account":
				next()
			case "macdef":
				for i+1 < len(lines) && strings.TrimSpace(lines[i+1]) != "" {
					i++
				}
				words = nil
			}
		}
	}
	return found, any
}
