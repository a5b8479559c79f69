// Package daemontest runs a seeder or a peerd inside a test: on loopback, with
// free ports and a data directory of its own, until the test ends.
//
// Not its job: whole clusters, real clients, slow links; test/lab has those.
// Only tests may import it.
package daemontest
