// Package kubernetes names the programs of a cluster, so that this module, which
// is Kubernetes' own with its parts from the module proxy, can build them:
// `make accept-cluster`. It has no code, and nobody imports it.
package kubernetes
