// Package sim is a world of hosts, links and an upstream in virtual time. It
// drives the very same scheduler.Download and scheduler.Giver as pkg/fetch
// does, to tune the policy and to hold it to its targets.
package sim
