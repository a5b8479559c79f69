// Package local holds the repositories that are kept here and nowhere
// upstream: what was pushed to them, under which names. Content is in the
// store; this package keeps the links from repositories to it, the uploads
// under way, and the rules of the distribution spec about both.
//
// There is no database. Every link is a small file that is replaced by rename
// (docs/registry.md has the layout), so there is nothing that could disagree
// with itself after a crash, and nothing to rebuild but a list of repositories
// and the count of links.
//
// # What holds always
//
//   - What a client was told is there (201) survives SIGKILL and power loss:
//     content is flushed before its link, a link before the answer.
//   - A link never comes before what it links to: a blob is kept by the store
//     before a repository has it, a manifest before its tags. Deletion goes the
//     other way.
//   - A repository shows only what it links to, whatever else the store holds.
//   - Whoever was told that a blob is there has the time of a lease to use it:
//     the link's time is the last such moment. [Registry.Collect] keeps to it.
//   - What is removed is in the trash before it goes, with all that it needs to
//     come back; content goes when no repository and no entry links to it.
//   - The index counts a link before it is made, and until it is gone. It is
//     memory only.
//
// Not its job: HTTP (pkg/registry), bytes (pkg/store), the swarm (pkg/fetch).
// Its caller is pkg/seed.
package local
