// Package lab is the testbed: hosts that are network namespaces on a bridge,
// links with a real rate, real registries, real clients, and the two daemons
// under test.
//
// # What it is
//
// A [Lab] owns a "switch", a network namespace with one bridge, and any number
// of hosts. A [Host] is a network namespace with one link to that bridge; both
// ends of the link carry a tc tbf, so sending and receiving each have their own
// rate. Nothing is added to the machine's own network: no route, no address, no
// firewall rule. Two labs may therefore use the same addresses at once.
//
// A [Process] is a program that runs inside a host. An [Upstream] is a Debian
// docker-registry in a host. A [Puller] is a client: [HTTPPuller] talks as
// containerd does and verifies what it gets; [Containerd] is the real thing.
// [Seeder] and [Peerd] start the daemons with the flags a user would write.
//
// Without root, or without iproute2, [Options.Loopback] gives the same API on
// loopback addresses: no rates, no link counters, the rest works.
//
// # What it is not
//
// It knows nothing of pieces, swarms or stores, and asserts nothing. Package
// scenario does.
//
// # Invariants
//
//   - Only processes that this lab started are ever signalled, by their own pid,
//     and what they started, by their process group.
//   - Close leaves nothing behind: no namespace, process, mount or directory.
//     SIGINT and SIGTERM do the same. What a killed run leaves behind carries its
//     pid in the name and is swept by the next lab of the same user.
//   - Every wait has an end.
//
// Callers: tests, test/scenario, test/demo, test/accept, test/bench. No product code.
package lab
