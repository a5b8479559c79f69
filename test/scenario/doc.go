// Package scenario is what Samara promises, as runs in a lab: each [Scenario]
// sets up hosts, makes something happen to them and reports [Row]s, each a
// promise with its target, what was measured and a verdict.
//
// test/integration runs every scenario at [Small] size and fails where a row
// fails; test/accept runs them at [Full] size and prints the table. Both run the
// same code, so the quick test and the real one cannot drift apart.
//
// Byte counts are hard promises at any size. Times depend on the machine: they
// are a verdict at Full size only, and for information at Small.
//
// Its job is not to make hosts, links and clients (package lab) nor to know how
// the daemons work inside: it sees flags, HTTP endpoints, files and links.
package scenario
