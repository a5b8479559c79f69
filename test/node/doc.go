// Package node tests what peerd does to a whole host: `peerd setup` and `peerd
// doctor`, with real runtimes at their usual places.
//
// Its tests run in namespaces of their own (mounts, network, processes), in which
// /etc/containerd, /etc/docker, /etc/containers, /run and the runtimes' directories
// are empty and theirs alone: nothing of the machine is touched, and firewalls can
// be closed. Without root they skip.
package node
