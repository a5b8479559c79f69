// Package datadir says which version of Samara's files a data directory has.
//
// The file `version` in it covers all files that have no version of their own:
// links of repositories, tags, queues, memories. A program refuses a directory of
// a later version before it reads or writes anything else there: what it does not
// understand it would take for damage. A directory without the file is of version
// 1, which was there before the file.
//
// Not its job: what the files are (docs/upgrade.md lists them), or the store below
// the directory, which has a version of its own.
//
// Callers: internal/daemon, internal/transfer and internal/backup.
package datadir
