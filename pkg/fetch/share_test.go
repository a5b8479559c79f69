package fetch

import (
	"testing"
	"testing/synctest"

	"github.com/opencontainers/go-digest"

	"github.com/samara-p2p/samara/pkg/piece"
)

// What was pushed to a seeder is signed and announced before anybody asks.
func TestShare(t *testing.T) {
	inBubble(t, func(o *Options) { o.Seeder = true }, func(t *testing.T, b *bubble) {
		large, small := b.fill(2*SmallBlob+1), b.fill(100)
		for _, w := range []Want{large, small, {Digest: digest.FromString("nobody has it")}} {
			b.Share(w.Digest)
		}
		synctest.Wait()
		blob, err := b.st.Blob(large.Digest)
		if err != nil {
			t.Fatal(err)
		}
		defer blob.Release()
		final := false
		for _, env := range blob.Runs() {
			r, signer, err := piece.Open(env)
			if err != nil || signer != b.self {
				t.Fatalf("%v, signed by %s", err, signer)
			}
			final = final || r.Final && len(r.Hashes) == blob.Geometry().Count()
		}
		if !final {
			t.Errorf("no final list among %d runs", len(blob.Runs()))
		}
		for w, want := range map[*Want]bool{&large: true, &small: false} {
			key, err := blobCID(w.Digest)
			if err != nil {
				t.Fatal(err)
			}
			b.net.mu.Lock()
			if b.net.provided[key] != want {
				t.Errorf("%d bytes: announced %v", w.Size, !want)
			}
			b.net.mu.Unlock()
		}
	})
}
