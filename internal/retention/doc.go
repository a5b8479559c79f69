// Package retention holds the rules that say which tags of a repository stay,
// and judges tags by them. The file of rules is described in docs/space.md.
//
// It decides and does nothing: time and tags are arguments, so that a dry run
// and a real one come to the same. Who deletes is internal/local; who reads
// the file at the start is internal/config.
package retention
