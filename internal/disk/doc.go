// Package disk finds out whether a directory takes writes, and how long the disk
// below it takes to keep them. It writes one file of 1 MiB, and removes it.
//
// Not its job: to say what is too slow (internal/doctor).
package disk
