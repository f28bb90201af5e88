// Package recursive answers builders that call Nix: recursive Nix. Each build that
// may do so has a Server of its own, with a socket in its build directory, and a
// Scope: the store objects that exist for it. These are its inputs, what it has
// added, and what was built for it, each with its closure. Nothing else exists:
// it cannot be named, read, built or referred to.
//
// What comes into the scope is made visible in the running sandbox before the
// builder hears of it. How that is done is not this package's business: it is given
// a function for it, a store and a nix.Builder, and knows neither sandboxes nor
// executors.
package recursive
