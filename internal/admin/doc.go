// Package admin is the API by which operators tell a running seeder what to do:
// fetch images ahead, drop what is cached, collect, restore, look (Server), and a
// client for it (Client).
//
// What takes long is a job, which has a number, tells how far it is, and can be
// ended (Job). The API is described by an OpenAPI document, which the server hands
// out and a test holds to the code.
//
// Invariants: every request is told to the audit log; a body that is not
// understood whole changes nothing; jobs end with the server. Not its job: to find
// out who asks (pkg/auth, or the socket's permissions), or to do what is asked:
// that is behind the interfaces Cache and Local.
package admin
