// Package auth decides who may do what at the seeder's registry API.
//
// A Guard stands before the /v2/ handler. It finds out who asks (an Identity:
// by htpasswd, by a token of its own, by a token of an issuer it was told to
// believe, or by the swarm key), looks up what the rules give to that identity
// (Rules), and either lets the request through or answers with the challenge
// that docker, containerd, podman, skopeo and crane know what to do with. It
// also is the token endpoint that such a challenge names.
//
// Not its job: to limit how much somebody does (internal/front), to keep the
// audit log (internal/audit), or to know what lies in a repository.
//
// Invariants:
//
//   - Once there is a rule or a way to log in, what no rule allows is refused.
//   - The decision is taken before anything is looked up: the answer for a
//     repository that may not be read does not depend on whether it exists.
//   - Rules are about canonical names ("docker.io/library/nginx"); however a
//     client spells a repository, the decision is about the one that the
//     handler will use.
//   - Failures say nothing about which part of a credential was wrong, and take
//     as long for a user that does not exist.
//   - Passwords, tokens and keys are in no error, no log and no metric.
//
// pkg/seed wires it; internal/config uses its parser of rules.
package auth
