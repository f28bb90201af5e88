package netrc

import "testing"

func TestFind(t *testing.T) {
	for _, test := range []struct {
		netrc, host string
		want        Credentials
		found       bool
	}{
		{"machine a login u password p", "a", Credentials{"u", "p"}, true},
		{"machine a login u password p", "A", Credentials{"u", "p"}, true},
		{"machine a login u password p", "b", Credentials{}, false},
		{"machine a\n  login u # who\n  password\n p\nmachine b login v password q", "a", Credentials{"u", "p"}, true},
		{"machine a login u password p\nmachine b login v password q", "b", Credentials{"v", "q"}, true},
		{"machine a login u password p\ndefault login d password e", "x", Credentials{"d", "e"}, true},
		{"machine a account x login u password p", "a", Credentials{"u", "p"}, true},
		{"macdef init\nmachine a login u password p\n\nmachine a login v password q", "a", Credentials{"v", "q"}, true},
		{"machine a login u password p\nmachine a login v password q", "a", Credentials{"u", "p"}, true},
		{"machine", "a", Credentials{}, false},
		{"machine a", "a", Credentials{}, false},
		{"", "a", Credentials{}, false},
	} {
		if got, found := Find(test.netrc, test.host); got != test.want || found != test.found {
			t.Errorf("%q, host %s: got %v, %v", test.netrc, test.host, got, found)
		}
	}
}

func FuzzFind(f *testing.F) {
	f.Add("machine a login u password p", "a")
	f.Add("macdef x\n\ndefault login\n u", "b")
	f.Fuzz(func(t *testing.T, netrc, host string) { Find(netrc, host) })
}
