// Package doctor finds out whether image pulls on this node go through its peerd,
// and if not, or not well, which of the known faults that is.
//
// The proof is a canary: an image that only this peerd has (internal/canary) is
// pulled by each runtime, by the way on which it pulls all others, and peerd is
// asked whether the runtime has asked it. Around it are checks: of the mirror's
// port, of the runtimes' files (pkg/hostconf), of seeders, peers, ports, upstreams,
// clock, disk and content. What peerd knows better it is asked for
// (internal/status).
//
// Run makes a Report: a Check is what was looked at, and each fault has a code,
// which docs/doctor.md lists, and a remedy.
//
// Invariants: nothing of the host is changed but that a canary comes and goes;
// every check has a deadline, and all of them together end within Timeout, whatever
// hangs; what could not be looked at is said. Its files: run.go (order), mirror.go
// and canary.go (the way of a pull), bypass.go, seeder.go and swarm.go (behind the
// mirror), and one for each way to talk to a runtime: grpc.go and cri.go,
// docker.go, podman.go.
//
// Not its job: to mend anything; to print (internal/cli).
package doctor
