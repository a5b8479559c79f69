// Package objectstoretest is a real S3 server for tests: versitygw on a
// directory, behind a proxy that can be told to misbehave and that remembers
// what was asked. Where the server's program is missing the test is skipped;
// `make versitygw` builds it.
package objectstoretest
