// Package cli is the command line of both daemons: `serve`, `status`,
// `config print|check`, `version`, and the seeder's `audit verify`, `import`,
// `export`, `backup`, `restore` and `verify`, and peerd's `setup` (Seeder,
// Peerd), how they exit (Main), and how a status document looks to a person
// (Render).
//
// Not its job: to build a daemon. cmd/seeder and cmd/peerd hand in the
// function that `serve` runs. Nor to move content: internal/transfer and
// internal/backup do, and say what they do in numbers that are shown here.
//
// Exit status: 0 done, or stopped by SIGINT or SIGTERM; 1 failed while
// running; 2 wrong usage or configuration; 3 done but for what the output
// names; `setup verify` has more. An error is printed once, on stderr, after the
// daemon's name. A second signal ends the process at once.
package cli
