// Package console is the page that people look at a seeder with: plain HTML, CSS
// and JavaScript modules, embedded, with nothing from elsewhere and no build.
//
// It has no data of its own: the page signs in (pkg/auth) and asks the admin API
// (internal/admin), as the commands do. What is in this package is for everybody
// who reaches the seeder, and no secret.
//
// Invariants, which a test holds: at most 300 KB in all; no address of another
// host; no inline script or style; the policy that is sent with it forbids these.
// The scripts put what they show into the page as text only.
package console
