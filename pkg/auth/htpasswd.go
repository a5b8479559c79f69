package auth

import (
	"bufio"
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.org/x/crypto/bcrypt"
)

const (
	maxHtpasswd   = 16 << 20
	maxPassword   = 512         // bytes of a password that is looked at at all
	maxCost       = 16          // of bcrypt: seconds
	lookForChange = time.Second // how often at most the file is looked at
	maxProved     = 4096
	provedFor     = time.Minute // a right password is not computed again
)

// htpasswd knows the users of a file that `htpasswd -B` writes. It reads the
// file again when it has changed; one that is broken is not taken over.
// Safe for concurrent use.
type htpasswd struct {
	file string
	log  *zap.Logger
	now  func() time.Time
	busy chan struct{} // bcrypt is slow on purpose: never more of it than processors

	key [32]byte // of digests in proved; random

	mu      sync.Mutex
	users   map[string][]byte
	proved  map[[32]byte]time.Time // passwords that were right a moment ago: a pull has many requests
	dummy   []byte                 // of no password, as costly as the costliest there is
	stamp   stamp
	version int // counts what was taken over
	looked  time.Time
}

// stamp tells two versions of a file apart.
type stamp struct {
	size int64
	mod  time.Time
}

// openHtpasswd reads the file. The error names the line.
func openHtpasswd(file string, log *zap.Logger, now func() time.Time) (*htpasswd, error) {
	h := &htpasswd{file: file, log: log, now: now, busy: make(chan struct{}, runtime.GOMAXPROCS(0))}
	_, _ = rand.Read(h.key[:]) // never fails
	if err := h.read(); err != nil {
		return nil, err
	}
	h.looked = now()
	return h, nil
}

// CheckHtpasswd says what is wrong with an htpasswd file.
func CheckHtpasswd(file string) error {
	_, err := openHtpasswd(file, zap.NewNop(), time.Now)
	return err
}

// read takes the file over, or returns why not.
func (h *htpasswd) read() error {
	f, err := os.Open(h.file)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	h.stamp = stamp{st.Size(), st.ModTime()} // also of a broken one: it is complained about once
	content, err := io.ReadAll(io.LimitReader(f, maxHtpasswd+1))
	switch {
	case err != nil:
		return err
	case len(content) > maxHtpasswd:
		return fmt.Errorf("%s has more than %d bytes", h.file, maxHtpasswd)
	}
	users, cost, err := parseHtpasswd(content)
	if err != nil {
		return fmt.Errorf("%s: %w", h.file, err)
	}
	dummy, err := bcrypt.GenerateFromPassword([]byte("nobody has this password"), cost)
	if err != nil {
		return fmt.Errorf("%s: %w", h.file, err)
	}
	h.users, h.dummy, h.proved = users, dummy, map[[32]byte]time.Time{}
	h.version++
	return nil
}

// bcryptRE is the form of a bcrypt hash: version, cost, salt and sum.
var bcryptRE = regexp.MustCompile(`^\$2[abxy]?\$[0-9]{2}\$[./A-Za-z0-9]{53}$`)

// parseHtpasswd also finds the highest cost.
func parseHtpasswd(content []byte) (users map[string][]byte, cost int, err error) {
	users = map[string][]byte{}
	s := bufio.NewScanner(bytes.NewReader(content))
	for n := 1; s.Scan(); n++ {
		line := strings.TrimSpace(s.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		user, hash, ok := strings.Cut(line, ":")
		if !ok || user == "" || strings.ContainsAny(user, " \t") {
			return nil, 0, fmt.Errorf("line %d is not USER:HASH", n)
		}
		if users[user] != nil {
			return nil, 0, fmt.Errorf("line %d: user %q is there twice", n, user)
		}
		c, err := bcrypt.Cost([]byte(hash))
		if err != nil || !bcryptRE.MatchString(hash) { // Cost looks at its own part only
			return nil, 0, fmt.Errorf("line %d: the hash of user %q is not bcrypt; make it with `htpasswd -B`", n, user)
		}
		if c > maxCost {
			return nil, 0, fmt.Errorf("line %d: the hash of user %q has the cost %d, and each login would take minutes; %d is the most", n, user, c, maxCost)
		}
		users[user] = []byte(hash)
		cost = max(cost, c)
	}
	if err := s.Err(); err != nil {
		return nil, 0, err
	}
	if cost == 0 { // no users
		cost = bcrypt.DefaultCost
	}
	return users, cost, nil
}

// refresh reads the file again where it has changed.
func (h *htpasswd) refresh() {
	now := h.now()
	if d := now.Sub(h.looked); d >= 0 && d < lookForChange {
		return
	}
	h.looked = now
	st, err := os.Stat(h.file)
	if err == nil && (stamp{st.Size(), st.ModTime()}) == h.stamp {
		return
	}
	if err == nil {
		err = h.read()
	} else if h.stamp == (stamp{}) {
		return // gone, and that was said
	} else {
		h.stamp = stamp{}
	}
	if err != nil {
		h.log.Error("the htpasswd file cannot be used; the users of before stay", zap.Error(err))
		return
	}
	h.log.Info("htpasswd file read again", zap.String("file", h.file), zap.Int("users", len(h.users)))
}

// verdict is what became of a password.
type verdict int

const (
	wrong  verdict = iota
	right          // checked
	locked         // not checked: too many wrong ones before
	busy           // not checked: the client left while others were
)

// check tells whether a password is right, where may, asked right before,
// allows it. It takes as long for a user that is not there.
func (h *htpasswd) check(ctx context.Context, user, password string, may func() bool) verdict {
	d := h.digest(user, password)
	h.mu.Lock()
	h.refresh()
	until, proved := h.proved[d]
	proved = proved && h.now().Before(until)
	h.mu.Unlock()
	if proved {
		return right
	}
	select {
	case h.busy <- struct{}{}:
		defer func() { <-h.busy }()
	case <-ctx.Done():
		return busy
	}
	if !may() {
		return locked
	}
	h.mu.Lock()
	hash, known := h.users[user]
	if !known {
		hash = h.dummy
	}
	version := h.version
	h.mu.Unlock()
	if len(password) > maxPassword {
		password = ""
	}
	match := bcrypt.CompareHashAndPassword(hash, []byte(password)) == nil
	if !match || !known || password == "" {
		return wrong
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.proved) >= maxProved {
		clear(h.proved)
	}
	if version == h.version { // else the user may be gone by now
		h.proved[d] = h.now().Add(provedFor)
	}
	return right
}

// digest stands for a password in memory.
func (h *htpasswd) digest(user, password string) (d [32]byte) {
	m := hmac.New(sha256.New, h.key[:])
	m.Write([]byte(user))
	m.Write([]byte{0}) // no user has it
	m.Write([]byte(password))
	m.Sum(d[:0])
	return d
}
