// Package hostconf makes the container runtimes of a host use a registry mirror:
// it edits containerd's hosts.toml and config.toml, docker's daemon.json,
// podman's registries.conf and BuildKit's buildkitd.toml, proves that they do
// what they should, and takes its part out again.
//
// A Host is a directory that holds a host's files, "/" or a chroot. Host.Plan
// says what would change, Plan.Commit does it, Host.PlanUndo and Commit undo
// it, Host.Verify reads the files as the runtimes read them and asks the
// mirror.
//
// What holds always:
//
//   - Files are edited as text: only our lines are put in, and all other bytes
//     stay. What is written parses, and means what was there with our mirror
//     in front; if not, the file is left alone and a Note says so.
//   - Whatever a runtime asked before, it asks after our mirror.
//   - The state file, with the content before and our edits, is on the disk before
//     the first file changes. After a crash at any point, Plan and PlanUndo
//     know for each file whether it was changed.
//   - Undo gives every file its bytes back. Where others have edited it since, only
//     our part goes; where they have edited our part, nothing is guessed.
//   - No daemon is restarted. Where one has to be, a Note says how.
//
// Not its job: to choose registries (the caller's), to serve the mirror
// (pkg/mirror). Its files: host.go (what can be done), plan.go and commit.go
// (how), record.go (what undo knows), root.go (the host's files), toml.go; and a
// file or two for each runtime.
package hostconf
