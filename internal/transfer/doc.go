// Package transfer moves images between places that hold them: a data
// directory of distribution (registry:2), an OCI image layout, upstreams, a
// registry's API, and the local repositories of a seeder that is not running.
// [Copier] takes images from a [Source] to a [Target]; what was moved and what
// could not be is in its [Report].
//
// # What holds always
//
//   - Bytes and digests stay as they are. Only where some platforms of an index
//     were chosen there is a new index, with a digest of its own.
//   - Nothing arrives unless it has its digest, and nothing before what it
//     names: blobs, then manifests, then the tag. So an interrupted run leaves
//     nothing half, and the next one goes on where it stood.
//   - A source is only read. A hard link is made of files that are never
//     written to again, on either side.
//   - What is wrong with one image of the source is noted, and the others are
//     moved. What is wrong with the target ends the run.
//
// Not its job: to print (its caller reads Progress), to keep (internal/local,
// pkg/store), to talk to upstreams (pkg/upstream). Its caller is internal/cli.
package transfer
