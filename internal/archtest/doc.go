// Package archtest holds the repository to its own rules: which package may
// import which, and why (edges_test.go is the list to edit); what a pure
// package may use; that packages and exported names are documented; how large
// files get. It has tests only.
//
// Not its job: style that a linter knows (.golangci.yml).
//
// Each rule is a function from a tree of parsed files to a list of faults, so
// that rules_test.go can show each one a tree that breaks it.
package archtest
