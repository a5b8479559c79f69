// Package manifests renders what lies in manifests/, the kustomize overlays and
// the chart, and holds it to the real Kubernetes types, to Pod Security, to the
// programs that it starts, and the chart to the overlays. It is a module of its
// own, so that the daemons' does not know Kubernetes. `make manifests` runs it.
package manifests
