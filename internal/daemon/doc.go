// Package daemon is what seeder and peerd have in common at run time: the data
// directory, the store, the engine, the node, the admin server and the order
// in which they start and stop. It also holds the Introduction, the small JSON
// document by which a peerd gets to know its seeder.
//
// Not its job: what either daemon answers to clients (pkg/seed, pkg/mirror),
// which are its only callers.
package daemon
