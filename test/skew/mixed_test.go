package skew

import (
	"context"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/samara-p2p/samara/test/lab"
)

// TestMixed has daemons of an earlier version beside today's: each pulls from the
// other, with the seeder and without, and the upstream is asked once.
func TestMixed(t *testing.T) {
	was := old(t)
	versions := map[string]lab.Binaries{"old": was, "new": binaries}
	for _, mix := range [][3]string{
		{"new", "old", "new"}, {"new", "new", "old"}, {"new", "old", "old"},
		{"old", "old", "new"}, {"old", "new", "old"}, {"old", "new", "new"},
	} {
		t.Run(fmt.Sprintf("%s seeder, %s and %s peer", mix[0], mix[1], mix[2]), func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
			defer cancel()
			s, dir := newSite(t), t.TempDir()
			s.startSeeder(ctx, versions[mix[0]], filepath.Join(dir, "seeder"))
			first := s.startPeer(ctx, versions[mix[1]], filepath.Join(dir, "first"))
			second := s.startPeer(ctx, versions[mix[2]], filepath.Join(dir, "second"))
			for _, p := range []*lab.Peerd{first, second} {
				if err := s.pull(ctx, p, "v1"); err != nil {
					t.Fatal(err)
				}
			}
			if err := s.pull(ctx, first, "v2"); err != nil {
				t.Fatal(err)
			}
			s.seeder.Kill()
			if err := s.pull(ctx, second, digest.FromBytes(upstreamImages[1].manifest()).String()); err != nil {
				t.Fatalf("without the seeder: %v", err)
			}
			st, err := second.Status(ctx)
			if err != nil {
				t.Fatal(err)
			}
			if want := int64(len(upstreamImages[1].layer)); st.Bytes.FromPeers < want || st.Bytes.FromUpstream > 0 {
				t.Errorf("the second peer has %+v, want at least %d bytes of the first", st.Bytes, want)
			}
			for _, i := range upstreamImages[:2] {
				if n, want := s.up.BytesServed(i.digest()), int64(len(i.layer)); n != want {
					t.Errorf("the upstream sent %d bytes of a layer of %d", n, want)
				}
			}
			s.stop()
		})
	}
}

// TestDiskOfEarlier: today's daemons work on the directories of an earlier version,
// and that one on what they leave.
func TestDiskOfEarlier(t *testing.T) {
	was := old(t)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	s, dir := newSite(t), t.TempDir()
	s.fill(ctx, was, dir)
	for _, bin := range []lab.Binaries{binaries, was, binaries} {
		s.check(ctx, bin, dir)
	}
}
