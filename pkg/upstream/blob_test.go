package upstream

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/samara-p2p/samara/pkg/upstream/upstreamtest"
)

type digestOf = digest.Digest

type fault = upstreamtest.Fault

func TestBlob(t *testing.T) {
	const size = 1_000_000
	tests := []struct {
		name   string
		fault  fault
		off, n int64
		kind   Kind
		says   []string
		check  func(t *testing.T, s Stats)
	}{
		{name: "whole", n: -1},
		{name: "tail", off: 999_999, n: -1},
		{name: "middle", off: 1000, n: 5000},
		{name: "first byte", off: 0, n: 1},
		{name: "more than there is", off: 900_000, n: 500_000},
		{name: "at the end", off: size, n: -1, kind: Invalid, says: []string{"no byte at offset 1000000"}},
		{name: "beyond the end", off: size + 5, n: 1, kind: Invalid},
		{name: "cut at 30% every time", fault: fault{Cut: 0.3}, n: -1,
			check: func(t *testing.T, s Stats) {
				if s.Resumes < 10 || s.Bytes != size || s.Skipped != 0 {
					t.Errorf("stats %+v", s)
				}
			}},
		{name: "cut at 30% every time, from an offset", fault: fault{Cut: 0.3}, off: 12_345, n: 700_000},
		{name: "cut once after the header", fault: fault{Cut: -1, Times: 1}, n: -1},
		{name: "cut after the header every time", fault: fault{Cut: -1}, n: -1, kind: Unavailable, says: []string{"gave up at byte 0 of 1000000 after 8 connections"}},
		{name: "drips", fault: fault{Cut: 0.01}, off: 0, n: 1000, kind: Unavailable, says: []string{"gave up"}},
		{name: "stalls once", fault: fault{Stall: 0.5, Times: 1}, n: -1},
		{name: "stalls every time", fault: fault{Stall: -1}, n: -1, kind: Unavailable, says: []string{"idle deadline"}},
		{name: "range ignored", fault: fault{IgnoreRange: true}, off: 400_000, n: 1000,
			check: func(t *testing.T, s Stats) {
				if s.Skipped != 400_000 || s.Bytes != 1000 {
					t.Errorf("stats %+v", s)
				}
			}},
		{name: "range ignored, at the end", fault: fault{IgnoreRange: true}, off: size, n: 1, kind: Invalid},
		{name: "cut half way, ranges ignored", fault: fault{IgnoreRange: true, Cut: 0.5}, n: -1, kind: Unavailable, says: []string{"gave up"}},
		{name: "cut once, ranges ignored", fault: fault{IgnoreRange: true, Cut: 0.5, Times: 1}, n: -1},
		{name: "sends another range", fault: fault{ContentRange: "bytes 0-999/1000000"}, off: 1000, n: 1000, kind: Corrupt, says: []string{"bytes from 1000", "bytes from 0"}},
		{name: "nonsense range", fault: fault{ContentRange: "bytes 9-5/7"}, off: 1000, n: 1000, kind: Corrupt, says: []string{"cannot be read"}},
		{name: "range and length differ", fault: fault{ContentRange: "bytes 1000-1998/1000000"}, off: 1000, n: 1000, kind: Corrupt},
		{name: "no length, no HEAD", fault: fault{NoLength: true}, n: -1},
		{name: "no length in GET", fault: fault{NoLength: true, Method: "GET"}, n: -1},
		{name: "truncated without a length", fault: fault{NoLength: true, Method: "GET", Cut: 0.4, Times: 1}, n: -1},
		{name: "goes on after the end", fault: fault{NoLength: true, Method: "GET", Extra: 10}, n: -1, kind: Corrupt, says: []string{"goes on after the 1000000 bytes"}},
		{name: "500 once", fault: fault{Status: 500, Times: 1}, n: -1},
		{name: "500 on and on", fault: fault{Status: 500}, n: -1, kind: Unavailable, says: []string{"500 Internal Server Error", "the test asked for"}},
		{name: "404", fault: fault{Status: 404}, n: -1, kind: NotFound},
		{name: "403", fault: fault{Status: 403}, n: -1, kind: Denied, says: []string{"docker login up.test", "DOCKER_CONFIG"}},
		{name: "204", fault: fault{Status: 204}, n: -1, kind: Unavailable},
		{name: "dropped connection once", fault: fault{Drop: true, Times: 1}, n: -1},
		{name: "slow", fault: fault{Rate: 100_000}, n: -1},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			virtually(t, nil, func(t *testing.T, b *bench) {
				d, content := b.up.AddRandomBlob(size)
				b.up.SetFault("blobs", test.fault)
				got, err := readAll(t, b, d, test.off, test.n)
				wantKind(t, err, test.kind, test.says...)
				if test.kind == None {
					end := int64(size)
					if test.n >= 0 {
						end = min(end, test.off+test.n)
					}
					if !bytes.Equal(got, content[test.off:end]) {
						t.Errorf("got %d bytes, not the right ones", len(got))
					}
				}
				s := b.client.Stats()[2]
				if s.InFlight != 0 {
					t.Errorf("%d exchanges are still open", s.InFlight)
				}
				if test.check != nil {
					test.check(t, s)
				}
			})
		})
	}
}

func TestBlobCorruptIsNotNoticedHere(t *testing.T) {
	virtually(t, nil, func(t *testing.T, b *bench) {
		d, content := b.up.AddRandomBlob(10_000)
		b.up.SetFault("blobs", fault{Corrupt: true})
		got, err := readAll(t, b, d, 0, -1)
		if err != nil || len(got) != len(content) || bytes.Equal(got, content) {
			t.Errorf("%d bytes, %v", len(got), err)
		}
	})
}

func TestEmptyBlob(t *testing.T) {
	for _, n := range []int64{-1, 10} {
		virtually(t, nil, func(t *testing.T, b *bench) {
			r, err := b.client.Blob(t.Context(), "up", "a/b", b.up.AddBlob(nil), 0, n)
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			if got, err := io.ReadAll(r); err != nil || len(got) != 0 || r.Size() != 0 {
				t.Errorf("%d bytes, size %d, %v", len(got), r.Size(), err)
			}
		})
	}
}

func TestBlobSize(t *testing.T) {
	tests := []struct {
		name  string
		fault fault
		off   int64
		want  int64
	}{
		{"from the length", fault{}, 0, 5000},
		{"from the range", fault{}, 100, 5000},
		{"from HEAD", fault{NoLength: true, Method: "GET"}, 0, 5000},
		{"from HEAD for a range without a total", fault{Method: "GET", ContentRange: "bytes 100-4999/*"}, 100, 5000},
		{"not known", fault{NoLength: true}, 0, -1},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			virtually(t, nil, func(t *testing.T, b *bench) {
				d, content := b.up.AddRandomBlob(5000)
				b.up.SetFault("blobs", test.fault)
				r, err := b.client.Blob(t.Context(), "up", "a/b", d, test.off, -1)
				if err != nil {
					t.Fatal(err)
				}
				defer r.Close()
				if r.Size() != test.want {
					t.Errorf("size %d, want %d", r.Size(), test.want)
				}
				got, err := io.ReadAll(r)
				if err != nil || !bytes.Equal(got, content[test.off:]) || r.Size() != 5000 {
					t.Errorf("%d bytes, size %d at the end, %v", len(got), r.Size(), err)
				}
			})
		})
	}
}

// A blob whose size changes between two connections is not put together.
func TestBlobChangesInBetween(t *testing.T) {
	virtually(t, nil, func(t *testing.T, b *bench) {
		d, _ := b.up.AddRandomBlob(5000)
		b.up.SetFault("blobs", fault{Cut: 0.5, Times: 1})
		r, err := b.client.Blob(t.Context(), "up", "a/b", d, 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		b.up.SetFault("blobs", fault{Extra: 3})
		_, err = io.ReadAll(r)
		wantKind(t, err, Corrupt, "was of 5000 bytes and is now of 5003")
	})
}

func TestBlobStallTakesTheIdleTimeout(t *testing.T) {
	virtually(t, nil, func(t *testing.T, b *bench) {
		d, _ := b.up.AddRandomBlob(100_000)
		b.up.SetFault("blobs", fault{Stall: 0.9, Times: 1})
		begin := time.Now()
		if _, err := readAll(t, b, d, 0, -1); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(begin); took != 15*time.Second {
			t.Errorf("took %s", took)
		}
	})
}

// A reader that is slow itself is no stall of the upstream.
func TestBlobSlowReader(t *testing.T) {
	virtually(t, nil, func(t *testing.T, b *bench) {
		d, content := b.up.AddRandomBlob(1_000_000)
		r, err := b.client.Blob(t.Context(), "up", "a/b", d, 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		var got []byte
		buf := make([]byte, 200_000)
		for {
			n, err := r.Read(buf)
			got = append(got, buf[:n]...)
			if err != nil {
				break
			}
			<-time.After(time.Minute)
		}
		if !bytes.Equal(got, content) || b.client.Stats()[2].Resumes != 0 {
			t.Errorf("%d bytes, %d resumes", len(got), b.client.Stats()[2].Resumes)
		}
	})
}

func TestBlobEndsWithItsContext(t *testing.T) {
	virtually(t, nil, func(t *testing.T, b *bench) {
		d, _ := b.up.AddRandomBlob(1000)
		b.up.SetFault("blobs", fault{Stall: 0.5})
		ctx, cancel := context.WithCancel(t.Context())
		r, err := b.client.Blob(ctx, "up", "a/b", d, 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		time.AfterFunc(time.Second, cancel)
		_, err = io.ReadAll(r)
		wantKind(t, err, Canceled)
		if !errors.Is(err, context.Canceled) {
			t.Errorf("cause is lost: %v", err)
		}
		if s := b.client.Stats()[2]; s.LastError != "" {
			t.Errorf("a canceled read is no error of the upstream: %s", s.LastError)
		}
	})
}

func TestBlobCloseUnblocksRead(t *testing.T) {
	virtually(t, nil, func(t *testing.T, b *bench) {
		d, _ := b.up.AddRandomBlob(1000)
		b.up.SetFault("blobs", fault{Stall: 0.5})
		r, err := b.client.Blob(t.Context(), "up", "a/b", d, 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		got := make(chan error)
		go func() {
			_, err := io.ReadAll(r)
			got <- err
		}()
		synctest.Wait()
		_ = r.Close()
		wantKind(t, <-got, Canceled)
		_, err = r.Read(make([]byte, 1))
		wantKind(t, err, Canceled)
		_ = r.Close()
	})
}

// The upstream goes away for a while in mid-blob.
func TestBlobSurvivesAnOutage(t *testing.T) {
	virtually(t, nil, func(t *testing.T, b *bench) {
		d, content := b.up.AddRandomBlob(1_000_000)
		b.up.SetFault("blobs", fault{Cut: 0.5, Times: 1})
		r, err := b.client.Blob(t.Context(), "up", "a/b", d, 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		b.up.SetFault("blobs", fault{Status: 502, Times: 6})
		got, err := io.ReadAll(r)
		if err != nil || !bytes.Equal(got, content) {
			t.Fatalf("%d bytes, %v", len(got), err)
		}
	})
}

func TestBlobIsDeniedInMidStream(t *testing.T) {
	virtually(t, nil, func(t *testing.T, b *bench) {
		d, _ := b.up.AddRandomBlob(1_000_000)
		b.up.SetFault("blobs", fault{Cut: 0.5, Times: 1})
		r, err := b.client.Blob(t.Context(), "up", "a/b", d, 0, -1)
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		b.up.SetFault("blobs", fault{Status: 403})
		_, err = io.ReadAll(r)
		wantKind(t, err, Denied)
	})
}

// Downloads take their own slots: metadata never stands behind them.
func TestLanes(t *testing.T) {
	virtually(t, func(o *Options) { o.MaxConcurrent = 2 }, func(t *testing.T, b *bench) {
		img := b.up.AddImage("a/b", "1", 1000)
		d, _ := b.up.AddRandomBlob(1000)
		b.up.SetFault("blobs", fault{Stall: 0.5})
		for range 2 {
			r, err := b.client.Blob(t.Context(), "up", "a/b", d, 0, -1)
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		_, err := b.client.Blob(ctx, "up", "a/b", d, 0, -1)
		wantKind(t, err, Canceled)
		m, err := b.client.Manifest(ctx, "up", "a/b", img.Digest.String(), nil)
		if KindOf(err) != Canceled || m != nil {
			t.Errorf("the context has ended: %v", err)
		}
		if _, err := b.client.Manifest(t.Context(), "up", "a/b", "1", nil); err != nil {
			t.Errorf("a manifest waited for downloads: %v", err)
		}
	})
}

func TestBlobArguments(t *testing.T) {
	virtually(t, nil, func(t *testing.T, b *bench) {
		d := digest.FromString("x")
		for _, test := range []struct {
			name, repo string
			d          digest.Digest
			off, n     int64
		}{
			{"up", "a/b", d, -1, 1},
			{"up", "a/b", d, 0, 0},
			{"up", "a/b", d, 1 << 62, 1 << 62},
			{"up", "a/b", "sha256:zz", 0, 1},
			{"up", "a/b", "md5:d41d8cd98f00b204e9800998ecf8427e", 0, 1},
			{"up", "../../etc", d, 0, 1},
			{"up", "a//b", d, 0, 1},
			{"up", "A", d, 0, 1},
			{"up", strings.Repeat("a", 256), d, 0, 1},
			{"other", "a", d, 0, 1},
		} {
			_, err := b.client.Blob(t.Context(), test.name, test.repo, test.d, test.off, test.n)
			wantKind(t, err, Invalid)
		}
		if n := len(b.up.Requests()); n != 0 {
			t.Errorf("%d requests for nonsense", n)
		}
	})
}

func TestClientBlobSize(t *testing.T) {
	tests := []struct {
		name  string
		fault fault
		kind  Kind
	}{
		{name: "healthy"},
		{name: "no length", fault: fault{NoLength: true}, kind: Invalid},
		{name: "404", fault: fault{Status: 404}, kind: NotFound},
		{name: "500 once", fault: fault{Status: 500, Times: 1}},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			virtually(t, nil, func(t *testing.T, b *bench) {
				d, _ := b.up.AddRandomBlob(1234)
				b.up.SetFault("blobs", test.fault)
				n, err := b.client.BlobSize(t.Context(), "up", "a/b", d)
				wantKind(t, err, test.kind)
				if err == nil && n != 1234 {
					t.Errorf("%d bytes", n)
				}
				_, err = b.client.BlobSize(t.Context(), "up", "a/b", "sha256:1")
				wantKind(t, err, Invalid)
			})
		})
	}
}
