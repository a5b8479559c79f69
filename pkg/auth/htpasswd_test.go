package auth

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	"golang.org/x/crypto/bcrypt"
)

// hashOf is a line's hash, at the lowest cost.
func hashOf(t testing.TB, password string) string {
	t.Helper()
	h, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	return string(h)
}

func writeFile(t testing.TB, file, content string) {
	t.Helper()
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func yes() bool { return true }

func TestHtpasswd(t *testing.T) {
	file := filepath.Join(t.TempDir(), "htpasswd")
	writeFile(t, file, "# people\n\nalice:"+hashOf(t, "wonder:land")+"\nempty:"+hashOf(t, "")+"\n")
	h, err := openHtpasswd(file, zap.NewNop(), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		user, password string
		want           verdict
	}{
		{"alice", "wonder:land", right},
		{"alice", "wonder:land", right}, // from memory
		{"alice", "wonder", wrong},
		{"alice", "", wrong},
		{"empty", "", wrong}, // nobody has no password
		{"bob", "wonder:land", wrong},
		{"bob", "nobody has this password", wrong},
		{"alice", strings.Repeat("x", 1<<20), wrong},
	} {
		if got := h.check(t.Context(), c.user, c.password, yes); got != c.want {
			t.Errorf("%s %.20q: %v, want %v", c.user, c.password, got, c.want)
		}
	}
	if got := h.check(t.Context(), "alice", "other", func() bool { return false }); got != locked {
		t.Errorf("a locked account: %v", got)
	}
}

// A user that does not exist must cost as much as a wrong password: both
// compute the same bcrypt.
func TestUnknownUserCostsTheSame(t *testing.T) {
	hash, err := bcrypt.GenerateFromPassword([]byte("x"), bcrypt.DefaultCost+1)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "htpasswd")
	writeFile(t, file, "alice:"+string(hash)+"\n")
	h, err := openHtpasswd(file, zap.NewNop(), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	if cost, err := bcrypt.Cost(h.dummy); err != nil || cost != bcrypt.DefaultCost+1 {
		t.Fatalf("the cost for an unknown user is %d (%v), want %d", cost, err, bcrypt.DefaultCost+1)
	}
}

func TestHtpasswdIsReadAgain(t *testing.T) {
	file := filepath.Join(t.TempDir(), "htpasswd")
	writeFile(t, file, "alice:"+hashOf(t, "one")+"\n")
	c := newClock()
	core, logs := observer.New(zap.InfoLevel)
	h, err := openHtpasswd(file, zap.New(core), c.now)
	if err != nil {
		t.Fatal(err)
	}
	check := func(user, password string, want verdict) {
		t.Helper()
		c.advance(2 * time.Second)
		if got := h.check(t.Context(), user, password, yes); got != want {
			t.Fatalf("%s %s: %v, want %v", user, password, got, want)
		}
	}
	check("alice", "one", right)
	writeFile(t, file, "alice:"+hashOf(t, "two")+"\nbob:"+hashOf(t, "three")+"\n")
	check("alice", "one", wrong) // although it was right a moment ago
	check("alice", "two", right)
	check("bob", "three", right)
	writeFile(t, file, "alice:{SHA}abc\n")
	check("alice", "two", right)
	check("alice", "two", right)
	if n := logs.FilterMessageSnippet("cannot be used").Len(); n != 1 {
		t.Fatalf("the broken file was complained about %d times", n)
	}
	os.Remove(file)
	check("bob", "three", right)
	writeFile(t, file, "bob:"+hashOf(t, "four")+"\n")
	check("bob", "four", right)
	check("alice", "two", wrong)
	for _, e := range logs.All() {
		if text := fmt.Sprint(e.Message, e.ContextMap()); strings.Contains(text, "{SHA}abc") {
			t.Fatalf("the log has a hash in it: %s", text)
		}
	}
}

func TestBrokenHtpasswd(t *testing.T) {
	good := hashOf(t, "x")
	for content, want := range map[string]string{
		"alice\n":                   "line 1 is not USER:HASH",
		"a:" + good + "\n:" + good:  "line 2 is not USER:HASH",
		"a:" + good + "\na:" + good: "line 2: user \"a\" is there twice",
		"a:" + strings.Replace(good, "$04$", "$31$", 1): "has the cost 31",
		"a:$apr1$abc$def\n":                             "htpasswd -B",
		"# x\nbob:plain-text-password\n":                "line 2: the hash of user \"bob\" is not bcrypt",
	} {
		file := filepath.Join(t.TempDir(), "htpasswd")
		writeFile(t, file, content)
		err := CheckHtpasswd(file)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "plain-text") {
			t.Errorf("%q: %v, want %q", content, err, want)
		}
	}
	if err := CheckHtpasswd(filepath.Join(t.TempDir(), "none")); err == nil {
		t.Error("a file that is not there is fine")
	}
}
