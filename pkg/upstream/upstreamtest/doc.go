// Package upstreamtest is an upstream registry for tests: it holds the blobs,
// images and indexes a test gives it, serves them as the OCI distribution
// spec says, and misbehaves exactly as told (cut connections, wrong bytes,
// stalls, refusals). It counts every request and every byte it sent, by
// digest, so that a test can say "the upstream was asked once".
//
//	up := upstreamtest.New()
//	defer up.Close()
//	img := up.AddImage("library/nginx", "1.27", 200<<20, 1<<20)
//	up.SetFault("blobs", upstreamtest.Fault{Cut: 0.3})
//	... point the daemon at up.URL() ...
//	if up.BytesServed(img.Layers[0]) > 200<<20 { ... }
//
// Content is random but follows from a seed, so a failing test fails again.
// Layers of 2 KiB and more are valid uncompressed tars, so a real containerd
// can unpack them.
//
// Not its job: pushes, or being fast. Tests only; any package's tests may use
// it, it imports nothing of this module.
package upstreamtest
