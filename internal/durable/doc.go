// Package durable keeps what a seeder must not lose in an object store: the
// content of local repositories, the links that make them, and copies of what
// was pulled through the seeder. The store and the links on disk are then a
// cache and a copy of it.
//
// Its job: the layout of the bucket (docs/objectstore.md), the order of writes,
// who holds the bucket, a journal of links in which disk and bucket may differ,
// the queue of copies, and to bring everything back to an empty directory.
//
// Not its job: the S3 protocol (pkg/objectstore), what links mean
// (internal/local), pieces and readers (pkg/fetch), what is evicted (pkg/store).
//
// # What holds always
//
//   - Content is in the bucket before a link to it is, in the bucket or here.
//   - A link that a client was told of is in the bucket and here. Where a crash
//     or a failing object store left the two different, the path is in the
//     journal, and the bucket is made to say what the disk says.
//   - Content of local repositories and copies of upstreams' content have keys
//     of their own: nobody gets the one by the name of the other.
//   - The bucket is not listed but to fill an empty directory.
//   - What holds the content of local repositories in the store is not "kept"
//     there once the bucket has it.
//
// Its caller is pkg/seed.
package durable
