// Package backup saves what a seeder cannot fetch again, while it serves, and
// brings it back: the links of local repositories, the content that they need,
// and keys. A backup is a directory of snapshots that share their content
// (docs/moving.md has its format).
//
// # What holds always
//
//   - Every tag in a snapshot has all that it names, though pushes, deletes and
//     collection go on meanwhile: a tag is entered after its manifest, a manifest
//     after what it names, and content before its name is. What has gone when its
//     turn comes is read again from the tag on.
//   - A tag that was there, or moved, all the time while a snapshot was taken is
//     in it, with one of its meanings. Tags are listed before anything else.
//   - Content in a backup has its digest: it is hashed on its way in. A snapshot
//     is there whole or not at all, by one rename after all that it needs was
//     flushed.
//   - A snapshot needs no other one. What is dropped is dropped before the
//     content that nobody else needs.
//   - A data directory that a restore has not finished is not one that a seeder
//     starts on (Finished).
//
// The data directory is only read, as files that are replaced by rename or never
// written to again; its seeder is not asked, and no lock of it taken.
//
// Callers: internal/cli; internal/daemon and internal/transfer ask Finished.
package backup
