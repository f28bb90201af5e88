package main

import (
	"cmp"
	"os"

	"github.com/spf13/pflag"
)

// remoteFlags say which executor service is meant, and how a build is given to it.
type remoteFlags struct {
	executor      string
	cert, key, ca string
	detach, fetch bool
	id            string
}

// registerAddress adds the flags that every command of the service has.
func (r *remoteFlags) registerAddress(f *pflag.FlagSet) {
	f.StringVar(&r.executor, "executor", "", "the executor service: unix:///path or tcp://host:port; $KILN_EXECUTOR if it is not given")
	f.StringVar(&r.cert, "tls-cert", "", "`FILE` with the certificate to show to it")
	f.StringVar(&r.key, "tls-key", "", "`FILE` with the key of that certificate")
	f.StringVar(&r.ca, "tls-ca", "", "`FILE` with the authorities that its certificate may be of")
}

// register adds the flags of `kiln build`, for which the environment does not count: it
// builds here unless it is told otherwise.
func (r *remoteFlags) register(f *pflag.FlagSet) {
	r.registerAddress(f)
	f.Lookup("executor").Usage = "build by an executor service, at unix:///path or tcp://host:port"
	f.BoolVar(&r.detach, "detach", false, "with --executor, print the id of the build and leave")
	f.BoolVar(&r.fetch, "fetch", false, "with --executor, copy the outputs into the store here")
	f.StringVar(&r.id, "build-id", "", "with --executor, the `ID` of the build; asking for it again joins it")
}

// given tells whether a build is for an executor service.
func (r *remoteFlags) given() bool { return r.executor != "" }

func (r *remoteFlags) address() string { return cmp.Or(r.executor, os.Getenv("KILN_EXECUTOR")) }
