// Package handover lets a new process of a daemon take the place of a running
// one without a client that notices (contract 15 and 29): after an upgrade, or
// to read its configuration anew.
//
// A Process owns what has to outlive the daemon's engines: the listening sockets
// and the connections of clients. What the daemon does in between, from opening
// its data to closing it, is a Turn. SIGHUP makes a process start its own program
// anew, as it is on the disk now, with the same arguments:
//
//	old                                      new
//	offer: sockets                    ->     reads its configuration, its keys
//	                                  <-     ready
//	freezes: requests wait, the Turn
//	ends and with it the store's lock
//	released                          ->     opens the store, serves
//	                                  <-     serving
//	relays what it has under way, ends
//
// Until the end either of the two may die: before "serving" the old process
// begins another Turn, with its sockets, its connections and the configuration it
// has had; and the new one goes on with the sockets where the old one is gone. Both
// listen on the same sockets all the time, so that nobody is refused.
//
// Relaying: a body that the old process has begun is asked of the new one from the
// byte on where it was interrupted, and a request without an answer as a whole.
// The new process asks nobody whether the client may have the rest of such a body:
// the old one has decided that. Requests go through socket pairs whose ends
// the old process passes to the new one, so there is nothing that anybody else
// could connect to.
//
// Not its job: deciding what is served; what lies on the disk (the store's lock says
// who may use it); stopping in good order where nobody takes over, beyond waiting
// for requests. internal/daemon is its only caller.
package handover
