// Package recipes runs what the pages of docs/recipes say: their files and commands,
// as they stand there, against real programs (nginx, HAProxy, docker-registry, skopeo,
// podman, wireguard-go). run.sh makes a copy of the root file system and a network
// that go when it ends, and takes blocks from a page by the word behind their
// language; the script of a page beside it starts what the page takes for granted, and
// looks whether it is true what the page promises.
//
// `make test` runs the smallest, `make recipes` all of them. What is not installed
// skips, and says so.
package recipes
