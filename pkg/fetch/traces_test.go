package fetch

import (
	"testing"

	"github.com/samara-p2p/samara/pkg/p2p"
)

// Without a sampled request a transfer costs nothing more:
// go test ./pkg/fetch -run '^$' -bench TracesOff -benchmem
func BenchmarkTracesOff(b *testing.B) {
	var t traces
	r := &transfer{ask: p2p.Ask{Pieces: []int{1}}}
	ctx := b.Context()
	b.ReportAllocs()
	for b.Loop() {
		_, end := t.pieces(ctx, r)
		end(0)
		t.adopt(ctx)
	}
}

func TestTracesOffAllocateNothing(t *testing.T) {
	var tr traces
	r := &transfer{ask: p2p.Ask{Pieces: []int{1}}}
	ctx := t.Context()
	if n := testing.AllocsPerRun(100, func() {
		_, end := tr.pieces(ctx, r)
		end(0)
		tr.adopt(ctx)
	}); n != 0 {
		t.Errorf("%v allocations without a trace, want none", n)
	}
}
