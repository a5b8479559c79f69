// Package storetest is the suite that any store of blobs must pass. It states
// the contract of pkg/store as tests; a change of the store that needs a change
// here is a change of the contract.
//
// Callers: tests of pkg/store and of whatever wraps it.
package storetest
