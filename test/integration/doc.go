// Package integration holds the whole product to its promises, on real links,
// with real registries and real clients: every scenario of the acceptance table
// (test/scenario) at a size that fits `make test`. The full size is `make accept`.
//
// It is tests only and exports nothing. What the machine lacks (root, packages)
// skips the scenarios that need it.
package integration
