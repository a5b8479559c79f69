package seed

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/crypto/bcrypt"

	"github.com/samara-p2p/samara/internal/accesslog"
	"github.com/samara-p2p/samara/internal/config"
)

// Each request is in the access log with who sent it, by way of which proxy, and
// without what it proved that with.
func TestAccessLog(t *testing.T) {
	dir := t.TempDir()
	hash, err := bcrypt.GenerateFromPassword([]byte("wonder"), bcrypt.MinCost)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "htpasswd"), []byte("alice:"+string(hash)+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	b := newBench(t, func(c *config.Seeder) {
		c.Htpasswd = filepath.Join(dir, "htpasswd")
		c.Allow = []string{"user:alice pull up.test/lab/app"}
		c.AccessLog = filepath.Join(dir, "access.log")
		c.TrustedProxies = []string{"127.0.0.1"}
	})
	b.up.AddImage("lab/app", "v1", 1000)
	const alice = "Authorization: Basic YWxpY2U6d29uZGVy"
	b.get(manifestPath("v1")+"?x=SECRET", 401, "X-Forwarded-For: 192.0.2.9")
	b.get(manifestPath("v1"), 200, alice, "X-Forwarded-For: 192.0.2.9", "User-Agent: crane")
	b.get("/v2/lab/other/manifests/v1", 403, alice)
	want := []accesslog.Line{
		{Client: "192.0.2.9", Auth: "anonymous", Repository: "up.test/lab/app", Reference: "v1", Status: 401},
		{Client: "192.0.2.9", User: "alice", Auth: "password", Repository: "up.test/lab/app", Reference: "v1", Status: 200, Cache: "MISS", Source: "upstream"},
		{Client: "127.0.0.1", User: "alice", Auth: "password", Repository: "up.test/lab/other", Reference: "v1", Status: 403},
	}
	b.Until("written", func() error {
		content, err := os.ReadFile(b.c.AccessLog)
		if err != nil {
			return err
		}
		if bytes.Contains(content, []byte("SECRET")) || bytes.Contains(content, []byte("YWxp")) {
			t.Fatalf("a secret is in the log: %s", content)
		}
		lines := bytes.Split(bytes.TrimSpace(content), []byte("\n"))
		if len(lines) != len(want) {
			return fmt.Errorf("%d lines", len(lines))
		}
		got := make([]accesslog.Line, len(lines))
		for i, line := range lines {
			if err := json.Unmarshal(line, &got[i]); err != nil {
				return err
			}
		}
		// A line is written when its request has ended, which its client may know before.
		slices.SortFunc(got, func(a, b accesslog.Line) int { return a.Time.Compare(b.Time) })
		for i, e := range got {
			short := accesslog.Line{Client: e.Client, User: e.User, Auth: e.Auth, Repository: e.Repository, Reference: e.Reference, Status: e.Status, Cache: e.Cache, Source: e.Source}
			if short != want[i] || e.Sent == 0 || e.Method != "GET" || e.Kind != "manifest" {
				t.Errorf("line %d is %+v, want %+v", i+1, e, want[i])
			}
		}
		return nil
	})
}
