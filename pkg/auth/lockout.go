package auth

import (
	"container/list"
	"net/netip"
	"sync"
	"time"
)

// How fast passwords may be guessed. A person who mistypes never notices; a
// program gets a handful of tries and then one in a quarter of an hour.
const (
	freeFailures    = 5                // of one account from one address, before it is locked
	freePerAddress  = 50               // of all accounts together from one address
	firstLock       = time.Second      // doubles with each failure after that
	longestLock     = 15 * time.Minute // which it reaches after 10 of them
	forgetFailures  = time.Hour        // without another one
	maxLockoutState = 1 << 16          // accounts and addresses remembered: some 10 MiB
)

// attemptKey is an account at a client, or all accounts at it (account "").
type attemptKey struct {
	account string
	client  netip.Prefix
}

type attempts struct {
	key      attemptKey
	failures int
	last     time.Time
	until    time.Time // locked
}

// lockout counts failed logins. Each account is locked per client, so that
// nobody can lock others out of their account. It forgets the oldest where too
// many are to be remembered. Safe for concurrent use.
type lockout struct {
	now func() time.Time

	mu    sync.Mutex
	byKey map[attemptKey]*list.Element // of *attempts
	order *list.List                   // the one that failed last first
}

func newLockout(now func() time.Time) *lockout {
	return &lockout{now: now, byKey: map[attemptKey]*list.Element{}, order: list.New()}
}

// keys are what an attempt counts for. An IPv6 client has a /64 to itself.
func keys(account string, client netip.Addr) [2]attemptKey {
	client = client.Unmap().WithZone("")
	bits := client.BitLen()
	if client.Is6() {
		bits = 64
	}
	p, _ := client.Prefix(bits) // the zero Addr gives the zero Prefix: one for all unknown
	if len(account) > 256 {     // no such user; do not keep it
		account = account[:256]
	}
	return [2]attemptKey{{"u:" + account, p}, {"", p}}
}

// wait is for how long no password of this account may be checked for this
// client; 0 or less: now. It has to be asked right before the check: of a
// thousand requests at once only as many are checked as there are processors.
func (l *lockout) wait(account string, client netip.Addr) (wait time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	now := l.now()
	for _, k := range keys(account, client) {
		if e := l.byKey[k]; e != nil {
			wait = max(wait, e.Value.(*attempts).until.Sub(now))
		}
	}
	return wait
}

func (a *attempts) free() int {
	if a.key.account == "" {
		return freePerAddress
	}
	return freeFailures
}

// note tells how a check went, and returns whether that locked somebody.
func (l *lockout) note(account string, client netip.Addr, ok bool) (locked bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	ks := keys(account, client)
	if ok { // of the account alone: else one good password buys guesses at others
		l.forget(ks[0])
		return false
	}
	now := l.now()
	for _, k := range ks {
		a := l.at(k)
		if now.Sub(a.last) > forgetFailures {
			a.failures = 0
		}
		a.failures++
		a.last = now
		if over := a.failures - a.free(); over >= 0 {
			a.until = now.Add(min(firstLock<<min(over, 20), longestLock))
			locked = true
		}
	}
	return locked
}

func (l *lockout) forget(k attemptKey) {
	if e := l.byKey[k]; e != nil {
		l.order.Remove(e)
		delete(l.byKey, k)
	}
}

// at is the state of a key, made where it is missing, and now the latest.
func (l *lockout) at(k attemptKey) *attempts {
	if e := l.byKey[k]; e != nil {
		l.order.MoveToFront(e)
		return e.Value.(*attempts)
	}
	if l.order.Len() >= maxLockoutState {
		l.forget(l.order.Back().Value.(*attempts).key)
	}
	a := &attempts{key: k}
	l.byKey[k] = l.order.PushFront(a)
	return a
}
