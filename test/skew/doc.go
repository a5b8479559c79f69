// Package skew holds the promises of docs/upgrade.md: what daemons say to each
// other and what they leave on disk changes only with a row in the tables there,
// what earlier versions left is read, and neighbouring versions work together.
//
//   - testdata/wire.txt has bytes of each message, as they were when it got its
//     present fields. Lines are only ever added.
//   - testdata/data-N.tar.gz has the directories of a seeder and a peerd that were
//     made by the first program of disk format N. Archives are only ever added.
//   - Where SAMARA_BIN_OLD names programs of an earlier version (make accept-skew),
//     these are run beside today's, and on their directories.
//
// Only tests are here.
package skew
