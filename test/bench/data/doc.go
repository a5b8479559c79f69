// Command data measures the processor time that a byte costs in a peerd. It needs
// root, iproute2 and nginx (Debian packages), and about 9 times --size of disk.
//
//	go run ./test/bench/data                      2 modes, 3 runs of 512 MiB
//	go run ./test/bench/data --json out.json
//	go run ./test/bench/data --profile /tmp/prof  CPU profiles, from runs of their own
//
// Hosts are namespaces on one bridge without shaped links. What is measured of a
// peerd A, in user and system time of its process, per 10^9 bytes of one blob:
//
//   - moved: the blob comes from a warm seeder; A verifies and stores it while a
//     client on A's host reads it once from the mirror; after that the seeder is
//     stopped and a peerd B takes the whole blob from A. The time ends when B has
//     committed.
//   - minimal: the same bytes by this program's own child, over HTTP from a plain
//     file server: receive, SHA-256, write. Nothing is sent on, nothing flushed.
//   - cached: after that, clients on A's host read the complete blob from the
//     mirror; against nginx with sendfile that serves the same file to the same
//     client.
//
// Moved is measured with identity TLS and with --trusted-network; minimal, moved
// and cached alternate, and each ratio is one of the same run. The processor time
// of clients, seeder, file server and B is not counted; what the kernel does on
// behalf of A is: on virtual links that includes the receiver's share of the work
// for each segment that A sends, to peers and to clients alike, and so it is with
// nginx.
//
// Before each measurement memory is made ready for it (see heat), and during all
// of them every processor is busy (see fill): without, what a virtual machine's host
// does and what a core's other thread does decide the figures.
//
// It exits with 1 when a target is missed and 2 when it could not measure.
package main
